//! Fallbacks: who answers, what the answer says, and what is recorded and counted of both.

use bytes::Bytes;
use prost::Message;
use std::time::{Duration, Instant};
use tickserve_core::engine::Engine;
use tickserve_core::plan::{
    OutputRule, OutputRuleKind, Plan, Policy, Role, TapPlan, TappedVersion, VersionPlan,
};
use tickserve_core::refusal::Refusal;
use tickserve_core::service::{Answering, Arrival, Protocol, Service};
use tickserve_core::tap::layout::{HEADER_BYTES, page, slot};
use tickserve_core::wire::tickserve::v1::{PredictRequest, PredictResponse};

use crate::files::Scratch;
use crate::reader::{Found, read, word};
use crate::support::*;

struct Fallen {
    engine: Engine,
    ring: Scratch,
    page: Scratch,
}

/// Echoes; no value of its output may be above `high`.
fn echo(version: &str, high: f64, policy: Policy) -> VersionPlan {
    let mut plan = version_plan("echo", version, &model_file("echo"));
    plan.digest = Bytes::from(version.repeat(32));
    plan.output_rules = vec![OutputRule {
        name: "range:values".to_owned(),
        output: "values".to_owned(),
        kind: OutputRuleKind::Range,
        low: f64::MIN,
        high,
        policy,
    }];
    plan
}

/// Version 1 answers, and version 2 where it breaks a rule of that policy; blocks 0 and 1.
fn fallen(versions: &[VersionPlan; 2]) -> Fallen {
    let engine = engine(BOUNDS);
    let (ring, page) = (Scratch::ring(512, 64, 4), Scratch::page(2, 1));
    engine.open_tap(&[ring.path().to_owned()], page.path()).unwrap();
    for version in versions {
        engine.keep(engine.prepare(version.clone(), None).unwrap());
    }
    let mut plan: Plan = plan_of(5, &versions[0]);
    let model = plan.models.get_mut("echo").unwrap();
    model
        .versions
        .insert("2".to_owned(), (versions[1].digest.clone(), Role::Previous));
    model.pins.push("2".to_owned());
    model.fallback = "2".to_owned();
    let tapped = |number| TappedVersion {
        number,
        block: Some(number),
        compared: None,
    };
    model.tap = TapPlan {
        split_generation: 3,
        latency_edge_ns: 0,
        versions: [("1".to_owned(), tapped(0)), ("2".to_owned(), tapped(1))].into(),
        shadow: None,
    };
    engine.install(plan).unwrap();
    Fallen { engine, ring, page }
}

impl Fallen {
    fn records(&self) -> Vec<Found> {
        read(&std::fs::read(self.ring.path()).unwrap()).records
    }

    fn counts(&self, block: usize) -> [u64; 8] {
        let bytes = std::fs::read(self.page.path()).unwrap();
        let block_bytes = page::BLOCK_HEADER_BYTES + page::WRITER_BYTES;
        let rows = HEADER_BYTES + block * block_bytes + page::BLOCK_HEADER_BYTES;
        std::array::from_fn(|column| {
            (0..page::BUCKETS)
                .map(|bucket| word(&bytes, rows + bucket * 64 + column * 8))
                .sum()
        })
    }

    /// Answered and refused, of a version in a role.
    fn done(&self, version: &str, role: Role) -> (u64, u64) {
        let counters = self.engine.counters();
        let found = counters
            .versions
            .iter()
            .find(|(each, _)| each.version == version && each.role == role);
        found.map_or((0, 0), |(_, counts)| {
            (counts.answered, counts.errors.values().sum())
        })
    }

    fn ask(
        &self,
        request: &PredictRequest,
        padding: usize,
        arrival: Arrival,
    ) -> Result<PredictResponse, Refusal> {
        let pipeline = self.engine.pipeline(0).unwrap();
        let mut message = request.encode_to_vec();
        if padding > 0 {
            // An unknown field that makes it leave its worker.
            message.extend([0xa2, 0x06, 0xf0, 0xa2, 0x04]);
            message.extend(vec![0; 70_000]);
        }
        let answer = match pipeline.answer(Protocol::Predict, message.into(), arrival) {
            Answering::Now(answer) => answer,
            Answering::Later(answer) => {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::timeout(BOUND, answer).await.unwrap() })
            }
        };
        answer.map(|bytes| PredictResponse::decode(bytes).unwrap())
    }
}

fn request(features: &[f32]) -> PredictRequest {
    PredictRequest {
        model: "echo".into(),
        request_id: "mine".into(),
        features: features.to_vec(),
        rows: features.len() as u32 / 3,
        ..Default::default()
    }
}

#[test]
fn the_fallback_answers_on_the_worker_and_on_the_pool_and_says_why() {
    for padding in [0, 70_000] {
        let fallen = fallen(&[echo("1", 5.0, Policy::Fallback), echo("2", 50.0, Policy::Reject)]);
        let sent = request(&[1.0, 2.0, 3.0, 4.0, 9.0, 8.0]);
        let answer = fallen.ask(&sent, padding, arrival()).unwrap();
        assert_eq!(
            (answer.version.as_str(), answer.role),
            ("2", Role::Fallback as i32)
        );
        assert_eq!(answer.digest, "2".repeat(32).as_bytes());
        assert_eq!((answer.values, answer.rows), (sent.features, 2));
        let findings: Vec<_> = answer
            .findings
            .iter()
            .map(|found| (found.kind, found.row, found.column, found.rule.as_str()))
            .collect();
        assert_eq!(findings, [(3, 1, 1, "range:values")]);
        let records = fallen.records();
        let facts: Vec<_> = records
            .iter()
            .map(|found| {
                let fixed = &found.fixed;
                let [status, reason, role, why] = fixed[slot::STATUS..slot::KEY_BUCKET] else {
                    panic!("four bytes")
                };
                (fixed[slot::VERSION], status, reason, role, why)
            })
            .collect();
        // The table of the test says INVALID_INPUT to output rules.
        assert_eq!(facts, [(0, 13, 10, 1, 1), (1, 0, 0, 5, 3)]);
        assert_eq!(records[0].outputs, records[1].outputs);
        assert_eq!(records[0].broken_rules, [(1, 4, b"range:values".to_vec())]);
        assert_eq!(records[1].findings, [(1, 1, 3, b"range:values".to_vec())]);
        for found in &records {
            assert_eq!(&found.fixed[slot::REQUEST_ID..][..5], b"mine\0");
        }
        assert_eq!(fallen.counts(0), [1, 1, 1, 1, 1, 0, 0, 0]);
        assert_eq!(fallen.counts(1), [0; 8]);
        assert_eq!(fallen.done("1", Role::Stable), (0, 1));
        assert_eq!(fallen.done("2", Role::Fallback), (1, 0));
    }
}

#[test]
fn where_the_fallback_fails_too_the_client_gets_the_first_refusal() {
    let fallen = fallen(&[echo("1", 5.0, Policy::Fallback), echo("2", 50.0, Policy::Reject)]);
    let refusal = fallen.ask(&request(&[99.0, 0.0, 0.0]), 0, arrival()).unwrap_err();
    assert!(refusal.message.contains("version=1"), "{}", refusal.message);
    assert_eq!(fallen.done("1", Role::Stable), (0, 1));
    assert_eq!(fallen.done("2", Role::Fallback), (0, 1));
    assert_eq!(fallen.records().len(), 2);
    // Its own shapes and rules hold for it.
    let mut narrow = echo("2", 50.0, Policy::Reject);
    narrow.limits.max_rows = 1;
    let fallen = self::fallen(&[echo("1", 5.0, Policy::Fallback), narrow]);
    let refusal = fallen
        .ask(&request(&[9.0, 0.0, 0.0, 1.0, 1.0, 1.0]), 0, arrival())
        .unwrap_err();
    assert!(refusal.message.contains("version=1"), "{}", refusal.message);
}

#[test]
fn nobody_falls_back_by_a_rule_of_another_policy_or_from_the_fallback_itself() {
    let fallen = fallen(&[echo("1", 5.0, Policy::Reject), echo("2", 5.0, Policy::Fallback)]);
    let mut sent = request(&[9.0, 0.0, 0.0]);
    fallen.ask(&sent, 0, arrival()).unwrap_err();
    assert_eq!(
        (fallen.done("2", Role::Fallback), fallen.records().len()),
        ((0, 0), 1)
    );
    let pinned = self::fallen(&[echo("1", 5.0, Policy::Fallback), echo("2", 5.0, Policy::Fallback)]);
    sent.version = "2".into();
    pinned.ask(&sent, 0, arrival()).unwrap_err();
    assert_eq!(
        (pinned.done("2", Role::Fallback), pinned.records().len()),
        ((0, 0), 1)
    );
}

#[test]
fn a_pin_falls_back_too_and_what_a_rule_flags_stays() {
    let fallen = fallen(&[echo("1", 5.0, Policy::Fallback), echo("2", 5.0, Policy::Flag)]);
    let mut sent = request(&[9.0, 0.0, 0.0]);
    sent.version = "1".into();
    let answer = fallen.ask(&sent, 0, arrival()).unwrap();
    let kinds: Vec<_> = answer.findings.iter().map(|found| found.kind).collect();
    assert_eq!((answer.version.as_str(), kinds), ("2", vec![3, 2]));
    let why: Vec<_> = fallen
        .records()
        .iter()
        .map(|found| found.fixed[slot::WHY])
        .collect();
    assert_eq!(why, [2, 3]);
    assert_eq!((fallen.counts(0), fallen.counts(1)), ([0; 8], [0; 8]));
}

#[test]
fn without_the_time_that_the_fallback_needs_it_does_not_run() {
    // Tens of milliseconds, so that both run on the pool.
    let mut slow = version_plan("echo", "2", &model_file("slow"));
    slow.outputs[0].shape = vec![-1, 1];
    let fallen = fallen(&[echo("1", 5.0, Policy::Fallback), slow.clone()]);
    let within = |time| Arrival {
        deadline: Some(Instant::now() + time),
        ..arrival()
    };
    let sent = request(&[9.0, 0.0, 0.0]);
    // On a machine that is busy the first version may be late itself; whatever it is, the fallback has no time.
    let refusal = fallen
        .ask(&sent, 0, within(Duration::from_millis(8)))
        .unwrap_err();
    let is_known = |text: &str| text.contains("OUTPUT_RULE") || text.contains("DEADLINE");
    assert!(is_known(&refusal.message), "{}", refusal.message);
    assert_eq!(
        (fallen.done("2", Role::Fallback), fallen.records().len()),
        ((0, 0), 1)
    );
    let fallen = self::fallen(&[echo("1", 5.0, Policy::Fallback), slow]);
    let answer = fallen.ask(&sent, 0, within(BOUND)).unwrap();
    assert_eq!(answer.values, [9.0]);
}
