//! What the engine records of requests on its worker and on its pool.

use bytes::Bytes;
use prost::Message;
use tickserve_core::engine::Engine;
use tickserve_core::plan::{Bound, Datatype, Plan, Policy, TapPlan, VersionPlan};
use tickserve_core::service::{Protocol, Service};
use tickserve_core::tap::layout::{HEADER_BYTES, flag, page, slot};
use tickserve_core::wire::tickserve::v1::PredictRequest;

use crate::files::Scratch;
use crate::reader::{Found, read, word};
use crate::support::*;

struct Tapped {
    engine: Engine,
    ring: Scratch,
    page: Scratch,
}

fn tapped(version: &VersionPlan) -> Tapped {
    let engine = engine(BOUNDS);
    let (ring, page) = (Scratch::ring(512, 64, 4), Scratch::page(2, 1));
    engine.open_tap(&[ring.path().to_owned()], page.path()).unwrap();
    engine.keep(engine.prepare(version.clone(), None).unwrap());
    let mut plan: Plan = plan_of(5, version);
    plan.models.get_mut(&version.model).unwrap().tap = TapPlan {
        split_generation: 3,
        latency_edge_ns: 1,
        versions: [(version.version.clone(), tapped_version(9, 1))].into(),
        shadow: None,
    };
    engine.install(plan).unwrap();
    Tapped { engine, ring, page }
}

impl Tapped {
    fn records(&self) -> Vec<Found> {
        let reading = read(&std::fs::read(self.ring.path()).unwrap());
        assert_eq!(reading.damaged, 0);
        reading.records
    }

    /// The sums over all key buckets of the block.
    fn counts(&self) -> [u64; 8] {
        let bytes = std::fs::read(self.page.path()).unwrap();
        let block = HEADER_BYTES + page::BLOCK_HEADER_BYTES + page::WRITER_BYTES;
        let rows = block + page::BLOCK_HEADER_BYTES;
        std::array::from_fn(|column| {
            (0..page::BUCKETS)
                .map(|bucket| word(&bytes, rows + bucket * 64 + column * 8))
                .sum()
        })
    }
}

fn clipping() -> VersionPlan {
    let mut version = version_plan("echo", "1", &model_file("echo"));
    version.feature_names = ["a", "b", "c"].map(str::to_owned).into();
    version.input_rules.bounds = vec![
        Bound {
            low: -5.0,
            high: 5.0,
            policy: Some(Policy::Clip),
        };
        3
    ];
    version
}

fn predict(features: &[f32], change: impl FnOnce(&mut PredictRequest)) -> Bytes {
    let mut request = PredictRequest {
        model: "echo".into(),
        features: features.to_vec(),
        ..Default::default()
    };
    change(&mut request);
    request.encode_to_vec().into()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn an_answer_is_recorded_with_what_came_and_what_went() {
    let tapped = tapped(&clipping());
    let pipeline = tapped.engine.pipeline(0).unwrap();
    let message = predict(&[1.0, 9.0, -2.0], |request| {
        request.request_id = "mine".into();
        request.routing_key = "EURUSD".into();
        request.entities = vec!["EURUSD".into()];
        request.event_time_unix_ns = 77;
    });
    let _answer = pipeline.answer(Protocol::Predict, message, arrival());
    let [found] = &tapped.records()[..] else {
        panic!("one record")
    };
    assert_eq!(found.inputs[0].2, bytes(&[1.0, 9.0, -2.0]), "as received");
    assert_eq!(found.outputs[0].2, bytes(&[1.0, 5.0, -2.0]));
    assert_eq!(found.entities, [b"EURUSD"]);
    assert_eq!(found.findings, [(0, 1, 1, b"bounds:b".to_vec())]);
    assert_eq!(found.broken_rules, [(1, 2, b"bounds:b".to_vec())]);
    let fixed = &found.fixed;
    assert_eq!(word(fixed, slot::EVENT_TIME), 77);
    assert_eq!(word(fixed, slot::PLAN_GENERATION), 5);
    assert_eq!(word(fixed, slot::SPLIT_GENERATION), 3);
    assert_eq!((fixed[slot::VERSION], fixed[slot::ROWS]), (9, 1));
    assert_eq!(
        fixed[slot::STATUS..slot::KEY_BUCKET],
        [0, 0, 1, 1],
        "stable, by the split"
    );
    assert_eq!(
        fixed[slot::KEY_BUCKET],
        tickserve_core::routing::place(b"", b"EURUSD").bucket
    );
    assert_eq!(
        fixed[slot::FLAGS],
        (flag::EXECUTED | flag::READ | flag::RAN) as u8
    );
    assert_eq!(&fixed[slot::REQUEST_ID..][..5], b"mine\0");
    assert_eq!(&fixed[slot::ROUTING_KEY..][..7], b"EURUSD\0");
    assert!(word(fixed, slot::DURATIONS + 24) > 0, "the run took time");
    assert_eq!(
        tapped.counts(),
        [1, 0, 0, 1, 0, 0, 1, 0],
        "a request with a violation, over the edge"
    );
}

#[test]
fn refusals_and_pins_are_recorded_and_pins_not_counted() {
    let tapped = tapped(&clipping());
    let pipeline = tapped.engine.pipeline(0).unwrap();
    for message in [
        predict(&[1.0], |_| {}),
        predict(&[f32::NAN, 0.0, 0.0], |_| {}),
        predict(&[1.0, 2.0, 3.0], |request| request.version = "1".into()),
        predict(&[1.0, 2.0, 3.0], |request| request.model = "nope".into()),
    ] {
        let _answer = pipeline.answer(Protocol::Predict, message, arrival());
    }
    let records = tapped.records();
    let facts: Vec<_> = records
        .iter()
        .map(|found| {
            (
                found.fixed[slot::REASON],
                found.fixed[slot::WHY],
                found.fixed[slot::ROWS],
                found.fixed[slot::FLAGS],
                found.inputs.len(),
            )
        })
        .collect();
    let read = flag::READ as u8;
    let all = (flag::EXECUTED | flag::READ | flag::RAN | flag::DRAWN) as u8;
    let drawn = flag::DRAWN as u8;
    assert_eq!(
        facts,
        [
            (10, 1, 0, drawn, 0),
            (10, 1, 1, read | drawn, 1),
            (0, 2, 1, all, 1)
        ]
    );
    // The table of the test says INTERNAL to all, so both are failures.
    assert_eq!(tapped.counts(), [2, 2, 2, 1, 0, 0, 0, 0]);
}

#[test]
fn what_ran_on_the_pool_is_recorded_by_the_worker() {
    let tapped = tapped(&clipping());
    let pipeline = tapped.engine.pipeline(0).unwrap();
    let sent = floats(&[1, 3], &[1.0, 9.0, 3.0]);
    let mut request = infer_request("echo", "features", &sent);
    request.id = "pooled".into();
    let mut message = request.encode_to_vec();
    // An unknown field that makes it leave its worker.
    message.extend([0xa2, 0x06, 0xf0, 0xa2, 0x04]);
    message.extend(vec![0; 70_000]);
    finish(pipeline.answer(Protocol::Infer, message.into(), arrival())).unwrap();
    let [found] = &tapped.records()[..] else {
        panic!("one record")
    };
    assert_eq!(&found.inputs[0].2, data(&sent));
    assert_eq!(found.inputs[0].0, Datatype::Fp32 as u8 + 1);
    assert_eq!(&found.fixed[slot::REQUEST_ID..][..7], b"pooled\0");
    assert_eq!(tapped.counts()[0], 1);
}

#[test]
fn a_request_that_was_given_up_leaves_no_record() {
    let tapped = tapped(&clipping());
    let pipeline = tapped.engine.pipeline(0).unwrap();
    let mut message = infer_request("echo", "features", &floats(&[1, 3], &[1.0; 3])).encode_to_vec();
    message.extend([0xa2, 0x06, 0xf0, 0xa2, 0x04]);
    message.extend(vec![0; 70_000]);
    drop(pipeline.answer(Protocol::Infer, message.into(), arrival()));
    eventually("it is through", || tapped.engine.counters().queued == 0);
    assert!(tapped.records().is_empty());
}
