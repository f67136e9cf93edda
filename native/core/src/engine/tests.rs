//! Swaps while requests run: every one is answered, and no thread that answers frees a session.

#[path = "../../tests/support/mod.rs"]
pub(crate) mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prost::Message;

use self::support::*;
use crate::plan::{Role, Shadow, VersionPlan};
use crate::service::{Protocol, Service};
use crate::session::probe::{self, FREED_ON};

const SWAPS: u64 = 12;
const WORKERS: usize = 2;

/// Each number is another package, so it has sessions of its own.
fn numbered(number: u64) -> VersionPlan {
    let mut plan = version_plan("echo", &number.to_string(), &model_file("echo"));
    plan.digest = number.to_be_bytes().repeat(4).into();
    plan
}

#[test]
fn swaps_under_load_fail_nothing_and_free_sessions_on_the_reapers_thread() {
    let _alone = probe::begin();
    let engine = engine_of(BOUNDS, WORKERS, 1);
    serve(&engine, 1, &numbered(1));
    let sent = floats(&[1, 3], &[1.0, 2.0, 3.0]);
    let request = infer_request("echo", "features", &sent);
    let mut large = request.encode_to_vec();
    // An unknown field that makes it leave its worker.
    large.extend([0xa2, 0x06, 0xf0, 0xa2, 0x04]);
    large.extend(vec![0; 70_000]);
    let (is_over, answered, ready) = (
        AtomicBool::new(false),
        AtomicU64::new(0),
        Barrier::new(WORKERS + 1),
    );
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (engine, request, large, sent) = (&engine, &request, &large, &sent);
            let (is_over, answered, ready) = (&is_over, &answered, &ready);
            let run = move || {
                let pipeline = engine.pipeline(worker).unwrap();
                ready.wait();
                while !is_over.load(Ordering::Relaxed) {
                    let inline = answer(&pipeline, request, arrival()).unwrap();
                    let pooled =
                        finish(pipeline.answer(Protocol::Infer, large.clone().into(), arrival())).unwrap();
                    // Given up while it waits or runs.
                    drop(pipeline.answer(Protocol::Infer, large.clone().into(), arrival()));
                    for answer in [inline, pooled] {
                        assert_eq!(&answer.raw_output_contents[0], data(sent));
                    }
                    answered.fetch_add(2, Ordering::Relaxed);
                }
            };
            std::thread::Builder::new()
                .name(format!("worker-{worker}"))
                .spawn_scoped(scope, run)
                .unwrap();
        }
        ready.wait();
        for number in 1..=SWAPS {
            if number > 1 {
                serve(&engine, number, &numbered(number));
            }
            let before = answered.load(Ordering::Relaxed);
            eventually("the plan answers", || {
                answered.load(Ordering::Relaxed) > before + 8
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
    eventually("requests that were given up are through", || {
        engine.counters().queued == 0
    });
    let sessions = WORKERS + 1;
    let all_but_one = usize::try_from(SWAPS - 1).unwrap() * sessions;
    eventually("retired sessions are freed", || {
        FREED_ON.lock().unwrap().len() == all_but_one
    });
    let counters = engine.counters();
    let counted: u64 = counters.versions.iter().map(|(_, counts)| counts.answered).sum();
    assert_eq!(
        (counted, counters.in_flight, counters.faults),
        (answered.into_inner(), 0, 0)
    );
    for (identity, counts) in &counters.versions {
        let (answered, errors) = (counts.answered, &counts.errors);
        assert!(
            errors.is_empty() && answered > 0,
            "{identity:?}: {answered} answered, {errors:?}"
        );
    }
    drop(engine);
    let freed_on = FREED_ON.lock().unwrap();
    assert_eq!(freed_on.len(), all_but_one + sessions);
    assert!(
        freed_on.iter().all(|thread| thread.as_deref() == Some("reaper")),
        "{freed_on:?}"
    );
}

#[test]
fn sessions_of_shadows_are_freed_on_the_reapers_thread() {
    let _alone = probe::begin();
    let engine = engine(BOUNDS);
    for number in [1, 2] {
        engine.keep(engine.prepare(numbered(number), None).unwrap());
    }
    let mut plan = plan_of(1, &numbered(1));
    let model = plan.models.get_mut("echo").unwrap();
    let shadow = (numbered(2).digest, Role::Previous);
    model.versions.insert("2".to_owned(), shadow);
    model.shadow = Some(Shadow {
        version: "2".to_owned(),
        fraction_bp: 10_000,
        salt: "shadow".into(),
        of: String::new(),
    });
    engine.install(plan).unwrap();
    let pipeline = engine.pipeline(0).unwrap();
    let request = infer_request("echo", "features", &floats(&[1, 3], &[1.0; 3]));
    answer(&pipeline, &request, arrival()).unwrap();
    pipeline.answered();
    let copies = || {
        let counters = engine.counters();
        let shadows = counters
            .versions
            .iter()
            .filter(|(each, _)| each.role == Role::Shadow);
        shadows.map(|(_, counts)| counts.answered).sum::<u64>()
    };
    eventually("the copy is run", || copies() == 1);
    // One each of the worker, the pool and the shadow.
    engine.install(plan_of(2, &numbered(1))).unwrap();
    eventually("the shadow's are freed", || FREED_ON.lock().unwrap().len() == 3);
    let freed_on = FREED_ON.lock().unwrap().clone();
    assert!(
        freed_on.iter().all(|thread| thread.as_deref() == Some("reaper")),
        "{freed_on:?}"
    );
    // At the end of the engine what is still held goes with whoever holds it last.
    drop((pipeline, engine));
    eventually("the others are", || FREED_ON.lock().unwrap().len() == 5);
}
