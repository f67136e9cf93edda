//! What shadows make of copies: in their ring, in both of their blocks, and in no answer.

use bytes::Bytes;
use prost::Message;
use tickserve_core::engine::Engine;
use tickserve_core::pipeline::Pipeline;
use tickserve_core::plan::{
    OutputRule, OutputRuleKind, Plan, Policy, Role, Shadow, TapPlan, TappedVersion, VersionPlan,
};
use tickserve_core::service::{Answering, Protocol, Service};
use tickserve_core::shared::PipelineBounds;
use tickserve_core::tap::layout::{HEADER_BYTES, page, slot};
use tickserve_core::wire::tickserve::v1::PredictRequest;

use crate::files::Scratch;
use crate::reader::{Found, read, word};
use crate::support::*;

const LIVE_BLOCK: u32 = 0;
const COMPARED_BLOCK: u32 = 1;
const SHADOW_BLOCK: u32 = 2;
const WRITERS: usize = 2;
const SHADOW_WRITER: usize = 1;

/// An engine whose version 1 answers and whose version 2 is its shadow.
struct Shadowed {
    engine: Engine,
    rings: [Scratch; 2],
    page: Scratch,
}

/// Echoes, under another digest: another package.
fn echo(version: &str) -> VersionPlan {
    let mut plan = version_plan("echo", version, &model_file("echo"));
    plan.digest = Bytes::from(version.repeat(32));
    plan
}

/// No value of an output may be above this.
fn at_most(mut version: VersionPlan, high: f64, policy: Policy) -> VersionPlan {
    version.output_rules = vec![OutputRule {
        name: "range:values".to_owned(),
        output: "values".to_owned(),
        kind: OutputRuleKind::Range,
        low: f64::MIN,
        high,
        policy,
    }];
    version
}

fn shadow_of(fraction_bp: u32, of: &str) -> Shadow {
    Shadow {
        version: "2".to_owned(),
        fraction_bp,
        salt: Bytes::from_static(b"shadow"),
        of: of.to_owned(),
    }
}

impl Shadowed {
    fn new(live: &VersionPlan, shadow: &VersionPlan, plan: Shadow, edge_ns: u64) -> Self {
        Self::bounded(live, shadow, plan, edge_ns, BOUNDS)
    }

    fn bounded(
        live: &VersionPlan,
        shadow: &VersionPlan,
        plan: Shadow,
        edge_ns: u64,
        bounds: PipelineBounds,
    ) -> Self {
        let engine = engine(bounds);
        let rings = [Scratch::ring(512, 64, 4), Scratch::ring(512, 64, 4)];
        let page = Scratch::page(3, WRITERS as u32);
        let paths = rings.each_ref().map(|ring| ring.path().to_owned());
        engine.open_tap(&paths, page.path()).unwrap();
        for version in [live, shadow] {
            engine.keep(engine.prepare(version.clone(), None).unwrap());
        }
        engine
            .install(shadowed_plan(live, shadow, plan, edge_ns))
            .unwrap();
        Self { engine, rings, page }
    }

    fn records(&self, ring: usize) -> Vec<Found> {
        let reading = read(&std::fs::read(self.rings[ring].path()).unwrap());
        assert_eq!(reading.damaged, 0);
        reading.records
    }

    /// The sums over all key buckets of a block, by its writer.
    fn counts(&self, block: u32, writer: usize) -> [u64; 8] {
        let bytes = std::fs::read(self.page.path()).unwrap();
        let block_bytes = page::BLOCK_HEADER_BYTES + WRITERS * page::WRITER_BYTES;
        let block = HEADER_BYTES + block as usize * block_bytes + page::BLOCK_HEADER_BYTES;
        let rows = block + writer * page::WRITER_BYTES;
        std::array::from_fn(|column| {
            (0..page::BUCKETS)
                .map(|bucket| word(&bytes, rows + bucket * 64 + column * 8))
                .sum()
        })
    }

    /// Waits until nothing waits for the shadow.
    fn settle(&self) {
        eventually("the copies are run", || self.engine.counters().shadow_queued == 0);
    }

    fn dropped(&self) -> u64 {
        self.engine.counters().shadow_dropped[&("echo".to_owned(), "2".to_owned())]
    }

    fn answered(&self, version: &str, role: Role) -> u64 {
        let counters = self.engine.counters();
        let of = counters
            .versions
            .iter()
            .find(|(each, _)| each.version == version && each.role == role);
        of.map_or(0, |(_, counts)| counts.answered)
    }
}

fn shadowed_plan(live: &VersionPlan, shadow: &VersionPlan, plan: Shadow, edge_ns: u64) -> Plan {
    let mut made: Plan = plan_of(5, live);
    let model = made.models.get_mut("echo").unwrap();
    let number = shadow.version.clone();
    model
        .versions
        .insert(number.clone(), (shadow.digest.clone(), Role::Previous));
    model.shadow = Some(plan);
    let live_in_tap = TappedVersion {
        number: 9,
        block: Some(LIVE_BLOCK),
        compared: Some(COMPARED_BLOCK),
    };
    let shadow_in_tap = TappedVersion {
        number: 10,
        ..TappedVersion::default()
    };
    model.tap = TapPlan {
        split_generation: 3,
        latency_edge_ns: edge_ns,
        versions: [(live.version.clone(), live_in_tap), (number, shadow_in_tap)].into(),
        shadow: Some(SHADOW_BLOCK),
    };
    made
}

fn message(features: &[f32], change: impl FnOnce(&mut PredictRequest)) -> Bytes {
    let mut request = PredictRequest {
        model: "echo".into(),
        features: features.to_vec(),
        ..Default::default()
    };
    change(&mut request);
    request.encode_to_vec().into()
}

/// Answers, and says as the transport does that the answer is in line.
fn ask(pipeline: &Pipeline, message: Bytes) {
    if let Answering::Later(answer) = pipeline.answer(Protocol::Predict, message, arrival()) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let answer = async { tokio::time::timeout(BOUND, answer).await.unwrap() };
        let _answer = runtime.block_on(answer);
    }
    pipeline.answered();
}

#[test]
fn a_copy_runs_once_the_answer_is_in_line_and_is_recorded_as_the_requests_own() {
    let shadowed = Shadowed::new(&echo("1"), &echo("2"), shadow_of(10_000, ""), 1);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    let sent = message(&[1.0, 9.0, -2.0], |request| {
        request.request_id = "mine".into();
        request.routing_key = "EURUSD".into();
        request.entities = vec!["EURUSD".into()];
        request.event_time_unix_ns = 77;
    });
    let _answer = pipeline.answer(Protocol::Predict, sent, arrival());
    assert_eq!(shadowed.engine.counters().shadow_queued, 0, "not before");
    pipeline.answered();
    shadowed.settle();
    let (live, copies) = (shadowed.records(0), shadowed.records(1));
    let ([live], [copy]) = (&live[..], &copies[..]) else {
        panic!("{} and {} records", live.len(), copies.len())
    };
    for (from, to) in [
        (slot::EVENT_TIME, slot::EVENT_TIME + 8),
        (slot::SPLIT_GENERATION, slot::SPLIT_GENERATION + 8),
        (slot::ROWS, slot::STATUS),
        (slot::KEY_BUCKET, slot::ROUTING_KEY_SIZE + 1),
        (slot::REQUEST_ID, slot::PAYLOAD),
    ] {
        assert_eq!(live.fixed[from..to], copy.fixed[from..to], "{from}");
    }
    assert_eq!(live.inputs, copy.inputs);
    assert_eq!(copy.entities, [b"EURUSD"]);
    assert_eq!(copy.fixed[slot::VERSION], 10);
    assert_eq!(copy.fixed[slot::STATUS..slot::KEY_BUCKET], [0, 0, 3, 4]);
    // Everything takes more than a nanosecond of the processor.
    let both = [1, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(shadowed.counts(SHADOW_BLOCK, SHADOW_WRITER), both);
    assert_eq!(shadowed.counts(COMPARED_BLOCK, SHADOW_WRITER), both);
    assert_eq!(shadowed.counts(LIVE_BLOCK, 0), [1, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(
        [(("1"), Role::Stable), ("2", Role::Shadow)].map(|(version, role)| shadowed.answered(version, role)),
        [1, 1]
    );
    let pair = [("echo".to_owned(), "2".to_owned())];
    let of_version = shadowed.engine.counts_of(&pair);
    assert_eq!(of_version[0].as_ref().map_or(0, |counts| counts.answered), 0);
}

#[test]
fn what_the_client_pins_or_gets_wrong_is_not_copied_and_what_the_version_does_wrong_is() {
    let live = at_most(echo("1"), 5.0, Policy::Reject);
    let shadowed = Shadowed::new(&live, &echo("2"), shadow_of(10_000, "1"), 0);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    ask(
        &pipeline,
        message(&[1.0, 2.0, 3.0], |request| request.version = "1".into()),
    );
    ask(&pipeline, message(&[1.0], |_| {}));
    ask(&pipeline, message(&[f32::NAN, 0.0, 0.0], |_| {}));
    ask(
        &pipeline,
        message(&[1.0; 3], |request| request.model = "nope".into()),
    );
    ask(&pipeline, message(&[6.0; 3], |_| {}));
    ask(&pipeline, message(&[1.0; 3], |_| {}));
    shadowed.settle();
    // Of the one it refused by its rule, and the one it answered. No edge, so no run is over it.
    assert_eq!(
        shadowed.counts(COMPARED_BLOCK, SHADOW_WRITER),
        [2, 1, 1, 1, 1, 0, 0, 0]
    );
    assert_eq!(
        shadowed.counts(SHADOW_BLOCK, SHADOW_WRITER),
        [2, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(shadowed.records(1).len(), 2);
    assert_eq!(shadowed.counts(LIVE_BLOCK, 0)[0], 4);
}

#[test]
fn a_shadow_has_its_own_rules_and_answers_nobody() {
    let mut shadow = at_most(echo("2"), 5.0, Policy::Reject);
    shadow.feature_names = ["a", "b", "c"].map(str::to_owned).into();
    shadow.input_rules.event_time.max_age_s = Some(1e-9);
    shadow.input_rules.event_time.policy = Policy::Flag;
    let shadowed = Shadowed::new(&echo("1"), &shadow, shadow_of(10_000, ""), 0);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    let answering = pipeline.answer(Protocol::Predict, message(&[9.0; 3], |_| {}), arrival());
    let Answering::Now(Ok(_)) = answering else {
        panic!("the version that answers has no such rule");
    };
    pipeline.answered();
    shadowed.settle();
    assert_eq!(
        shadowed.counts(SHADOW_BLOCK, SHADOW_WRITER),
        [1, 1, 1, 1, 1, 0, 0, 0]
    );
    assert_eq!(
        shadowed.counts(COMPARED_BLOCK, SHADOW_WRITER),
        [1, 0, 0, 0, 0, 0, 0, 0]
    );
    let counters = shadowed.engine.counters();
    let of = counters
        .versions
        .iter()
        .find(|(each, _)| each.role == Role::Shadow);
    let counts = &of.unwrap().1;
    assert_eq!(
        (counts.answered, counts.errors.len(), counts.rule_violations.len()),
        (0, 1, 1)
    );
}

#[test]
fn a_fraction_is_chosen_by_the_request_id_and_a_shadow_of_another_version_gets_nothing() {
    let shadowed = Shadowed::new(&echo("1"), &echo("2"), shadow_of(2_500, ""), 0);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    let ids: Vec<String> = (0..60).map(|number| format!("request-{number}")).collect();
    for id in &ids {
        ask(
            &pipeline,
            message(&[1.0; 3], |request| request.request_id.clone_from(id)),
        );
        shadowed.settle();
    }
    let sampled = |id: &&String| tickserve_core::routing::is_sampled(b"shadow", id.as_bytes(), 2_500);
    let expected: Vec<&String> = ids.iter().filter(sampled).collect();
    let found = shadowed.records(1);
    let found: Vec<String> = found
        .iter()
        .map(|found| {
            let size = usize::from(found.fixed[slot::REQUEST_ID_SIZE]);
            String::from_utf8(found.fixed[slot::REQUEST_ID..][..size].to_vec()).unwrap()
        })
        .collect();
    assert!(expected.len() > 5 && expected.len() < 30);
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    let mut plan = shadowed_plan(&echo("1"), &echo("2"), shadow_of(10_000, "2"), 0);
    plan.generation = 6;
    shadowed.engine.install(plan).unwrap();
    ask(&pipeline, message(&[1.0; 3], |_| {}));
    shadowed.settle();
    assert_eq!(shadowed.records(1).len(), expected.len());
}

#[test]
fn what_ran_on_the_pool_is_copied_too() {
    let shadowed = Shadowed::new(&echo("1"), &echo("2"), shadow_of(10_000, ""), 1);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    let mut sent = infer_request("echo", "features", &floats(&[1, 3], &[1.0, 2.0, 3.0]));
    sent.id = "pooled".into();
    let mut sent = sent.encode_to_vec();
    // An unknown field that makes it leave its worker.
    sent.extend([0xa2, 0x06, 0xf0, 0xa2, 0x04]);
    sent.extend(vec![0; 70_000]);
    let answering = pipeline.answer(Protocol::Infer, sent.clone().into(), arrival());
    finish(answering).unwrap();
    pipeline.answered();
    // One that is given up leaves nothing.
    drop(pipeline.answer(Protocol::Infer, sent.into(), arrival()));
    pipeline.answered();
    shadowed.settle();
    let copies = shadowed.records(1);
    assert_eq!(copies.len(), 1);
    assert_eq!(&copies[0].fixed[slot::REQUEST_ID..][..7], b"pooled\0");
    assert_eq!(
        shadowed.counts(COMPARED_BLOCK, SHADOW_WRITER),
        [1, 0, 0, 0, 0, 0, 0, 1]
    );
}

#[test]
fn of_more_than_there_is_room_for_the_rest_is_dropped_and_counted_and_everybody_answered() {
    // Tens of milliseconds a copy.
    let mut shadow = version_plan("echo", "2", &model_file("slow"));
    shadow.outputs[0].shape = vec![-1, 1];
    let bounds = PipelineBounds {
        max_shadow_queue: 2,
        ..BOUNDS
    };
    let shadowed = Shadowed::bounded(&echo("1"), &shadow, shadow_of(10_000, ""), 0, bounds);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    const SENT: u64 = 40;
    for _ in 0..SENT {
        ask(&pipeline, message(&[1.0; 3], |_| {}));
        assert!(shadowed.engine.counters().shadow_queued <= 2);
    }
    shadowed.settle();
    let (dropped, run) = (shadowed.dropped(), shadowed.answered("2", Role::Shadow));
    assert!(dropped > 0 && run > 0);
    assert_eq!(
        (dropped + run, shadowed.answered("1", Role::Stable)),
        (SENT, SENT)
    );
    // Whatever was dropped, both sides are counts of the same requests.
    assert_eq!(shadowed.counts(SHADOW_BLOCK, SHADOW_WRITER)[0], run);
    assert_eq!(shadowed.counts(COMPARED_BLOCK, SHADOW_WRITER)[0], run);
}

#[test]
fn copies_larger_than_the_bound_are_dropped() {
    let bounds = PipelineBounds {
        max_shadow_bytes: 2_000,
        ..BOUNDS
    };
    let shadowed = Shadowed::bounded(&echo("1"), &echo("2"), shadow_of(10_000, ""), 0, bounds);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    ask(&pipeline, message(&[1.0; 900], |request| request.rows = 300));
    ask(&pipeline, message(&[1.0; 3], |_| {}));
    shadowed.settle();
    assert_eq!((shadowed.dropped(), shadowed.answered("2", Role::Shadow)), (1, 1));
}

#[test]
fn a_shadow_whose_file_is_gone_costs_its_copies_and_nothing_else() {
    let shadowed = Shadowed::new(&echo("1"), &echo("2"), shadow_of(10_000, ""), 0);
    let folder = Scratch::file("model", &std::fs::read(model_file("echo")).unwrap());
    let mut shadow = echo("2");
    shadow.digest = Bytes::from("x".repeat(32));
    shadow.model_file = folder.path().to_owned();
    shadowed
        .engine
        .keep(shadowed.engine.prepare(shadow.clone(), None).unwrap());
    drop(folder);
    let mut plan = shadowed_plan(&echo("1"), &shadow, shadow_of(10_000, ""), 0);
    plan.generation = 6;
    shadowed.engine.install(plan).unwrap();
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    ask(&pipeline, message(&[1.0; 3], |_| {}));
    shadowed.settle();
    assert_eq!((shadowed.dropped(), shadowed.answered("1", Role::Stable)), (1, 1));
    assert_eq!(shadowed.counts(SHADOW_BLOCK, SHADOW_WRITER), [0; 8]);
    assert_eq!(shadowed.counts(COMPARED_BLOCK, SHADOW_WRITER), [0; 8]);
    let faults = shadowed.engine.take_faults();
    assert!(
        faults[0].starts_with("echo version 2 as a shadow: cannot read"),
        "{faults:?}"
    );
}

#[test]
fn copies_wait_for_their_own_plan_and_a_plan_without_shadows_ends_them() {
    let shadowed = Shadowed::new(&echo("1"), &echo("2"), shadow_of(10_000, ""), 0);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    for generation in 6..20 {
        ask(&pipeline, message(&[1.0; 3], |_| {}));
        let mut plan = shadowed_plan(&echo("1"), &echo("2"), shadow_of(10_000, ""), 0);
        plan.generation = generation;
        if generation % 2 == 0 {
            plan.models.get_mut("echo").unwrap().shadow = None;
        }
        shadowed.engine.install(plan).unwrap();
    }
    shadowed.settle();
    let run = shadowed.answered("2", Role::Shadow);
    assert_eq!(
        (run, shadowed.dropped()),
        (7, 0),
        "those under a plan with a shadow"
    );
    assert_eq!(shadowed.answered("1", Role::Stable), 14);
}

#[test]
fn once_shadows_are_ended_nothing_is_taken_and_nobody_waits() {
    let shadowed = Shadowed::new(&echo("1"), &echo("2"), shadow_of(10_000, ""), 0);
    let pipeline = shadowed.engine.pipeline(0).unwrap();
    shadowed.engine.end_shadows();
    ask(&pipeline, message(&[1.0; 3], |_| {}));
    assert_eq!(shadowed.engine.counters().shadow_queued, 0);
    assert_eq!(shadowed.answered("1", Role::Stable), 1);
    assert_eq!(shadowed.records(1).len(), 0);
}
