//! The whole way of requests on the real runtime: admitted, routed, run inline or on the pool, refused, counted.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use support::*;
use tickserve_core::engine::Engine;
use tickserve_core::pipeline::Pipeline;
use tickserve_core::plan::{Datatype, Describing, Halt, Plan, Role, Segment, VersionPlan};
use tickserve_core::refusal::{Reason, Refusal};
use tickserve_core::service::{Answering, Arrival, Client, Describe, Protocol, Refused, Service};
use tickserve_core::shared::PipelineBounds;
use tickserve_core::wire::inference as oip;

fn echo() -> VersionPlan {
    version_plan("echo", "1", &model_file("echo"))
}

/// Tens of milliseconds, so it runs on the pool.
fn slow() -> VersionPlan {
    let mut plan = version_plan("slow", "1", &model_file("slow"));
    plan.outputs[0].shape = vec![-1, 1];
    plan
}

/// Fails in the run for an index of more than 2.
fn pick() -> VersionPlan {
    let mut plan = version_plan("pick", "1", &model_file("pick"));
    plan.inputs = vec![spec("index", Datatype::Int64, &[-1, 1])];
    plan.outputs = vec![spec("values", Datatype::Fp32, &[-1, 1])];
    plan
}

fn index(value: i64) -> oip::ModelInferRequest {
    infer_request(
        "pick",
        "index",
        &numbers(Datatype::Int64, &[1, 1], value.to_le_bytes().to_vec()),
    )
}

fn row(model: &str) -> oip::ModelInferRequest {
    infer_request(model, "features", &floats(&[1, 3], &[1.0, 2.0, 3.0]))
}

/// So large that it leaves its worker, whatever it costs.
fn large(request: &oip::ModelInferRequest) -> Vec<u8> {
    let mut message = request.encode_to_vec();
    // An unknown field, number 100, of 70,000 bytes.
    message.extend([0xa2, 0x06, 0xf0, 0xa2, 0x04]);
    message.extend(vec![0; 70_000]);
    message
}

fn send(pipeline: &Pipeline, message: Vec<u8>) -> Answering {
    pipeline.answer(Protocol::Infer, message.into(), arrival())
}

fn refusal(pipeline: &Pipeline, request: &oip::ModelInferRequest) -> Refusal {
    answer(pipeline, request, arrival()).unwrap_err()
}

fn several(engine: &Engine, versions: &[VersionPlan]) -> Pipeline {
    let mut plan = Plan {
        generation: 1,
        ..Plan::default()
    };
    for version in versions {
        engine.keep(engine.prepare(version.clone(), None).unwrap());
        plan.models.extend(plan_of(1, version).models);
    }
    engine.install(plan).unwrap();
    engine.pipeline(0).unwrap()
}

#[test]
fn short_requests_run_inline_and_are_counted() {
    let engine = engine(BOUNDS);
    let pipeline = several(&engine, &[echo()]);
    assert!(engine.pipeline(0).is_none(), "a worker has one pipeline");
    for rows in [1, 5] {
        let sent = floats(&[rows, 3], &vec![0.5; rows as usize * 3]);
        let message = infer_request("echo", "features", &sent).encode_to_vec();
        let answering = send(&pipeline, message);
        assert!(matches!(answering, Answering::Now(_)));
        assert_eq!(&finish(answering).unwrap().raw_output_contents[0], data(&sent));
    }
    let counters = engine.counters();
    let (identity, counts) = &counters.versions[0];
    assert_eq!(
        (identity.model.as_str(), identity.version.as_str(), identity.role),
        ("echo", "1", Role::Stable)
    );
    assert_eq!(
        (counts.answered, counts.rows, counters.in_flight, counters.faults),
        (2, 6, 0, 0)
    );
    assert!(
        counts
            .stages
            .iter()
            .all(|stage| stage.counts.iter().sum::<u64>() == 2)
    );
    let parts: u64 = counts.stages[1..6].iter().map(|stage| stage.sum_ns).sum();
    assert_eq!(parts, counts.stages[6].sum_ns);
}

#[test]
fn long_and_large_requests_run_on_the_pool_and_are_counted_alike() {
    let engine = engine(BOUNDS);
    let pipeline = several(&engine, &[echo(), slow()]);
    let answering = send(&pipeline, row("slow").encode_to_vec());
    assert!(matches!(answering, Answering::Later(_)));
    assert_eq!(engine.counters().in_flight, 1);
    let sum = floats(&[1, 1], &[6.0]);
    assert_eq!(&finish(answering).unwrap().raw_output_contents[0], data(&sum));
    let answering = send(&pipeline, large(&row("echo")));
    assert!(matches!(answering, Answering::Later(_)));
    finish(answering).unwrap();
    let counters = engine.counters();
    let answered: Vec<_> = counters
        .versions
        .iter()
        .map(|(_, counts)| counts.answered)
        .collect();
    assert_eq!((answered, counters.in_flight), (vec![1, 1], 0));
    let runs = counters
        .versions
        .iter()
        .map(|(_, counts)| counts.stages[3].sum_ns);
    assert!(
        runs.into_iter().all(|run_ns| run_ns > 0),
        "the queue and the run are counted"
    );
}

#[test]
fn a_failing_run_is_internal_and_a_fault() {
    let engine = engine(BOUNDS);
    let pipeline = several(&engine, &[pick()]);
    assert_eq!(
        answer(&pipeline, &index(1), arrival())
            .unwrap()
            .raw_output_contents[0],
        1.5_f32.to_le_bytes()[..]
    );
    let inline = refusal(&pipeline, &index(9));
    let pooled = finish(send(&pipeline, large(&index(9)))).unwrap_err();
    assert_eq!(
        (inline.message.as_str(), inline.reason),
        ("INTERNAL", Some(Reason::Internal))
    );
    assert_eq!(pooled, inline);
    let counters = engine.counters();
    assert_eq!(
        (
            counters.faults,
            counters.versions[0].1.errors[&Some(Reason::Internal)]
        ),
        (2, 2)
    );
    assert!(
        engine
            .take_faults()
            .iter()
            .all(|fault| fault.starts_with("pick version 1: "))
    );
    answer(&pipeline, &index(2), arrival()).unwrap();
}

#[test]
fn a_request_that_was_given_up_is_not_run() {
    let engine = engine(BOUNDS);
    let pipeline = several(&engine, &[slow(), pick()]);
    let before = send(&pipeline, row("slow").encode_to_vec());
    let given_up = send(&pipeline, large(&index(9)));
    assert_eq!(engine.counters().in_flight, 2);
    drop(given_up);
    assert_eq!(engine.counters().in_flight, 1);
    finish(before).unwrap();
    // The pool has one thread, so what was before this one is through.
    finish(send(&pipeline, large(&index(0)))).unwrap();
    assert_eq!(engine.counters().faults, 0, "it would have failed");
    drop(send(&pipeline, row("slow").encode_to_vec()));
    assert_eq!(engine.counters().in_flight, 0);
    eventually("the queue empties", || engine.counters().queued == 0);
}

#[test]
fn a_request_that_was_given_up_is_freed_before_its_turn() {
    struct Message(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Message {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Message {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let engine = engine(BOUNDS);
    let pipeline = several(&engine, &[slow(), echo()]);
    // The pool has one thread, which is at the first of these for long.
    let before = [(); 8].map(|()| send(&pipeline, row("slow").encode_to_vec()));
    let freed = Arc::new(AtomicUsize::new(0));
    let message = Bytes::from_owner(Message(large(&row("echo")), Arc::clone(&freed)));
    let given_up = pipeline.answer(Protocol::Infer, message, arrival());
    assert!(matches!(given_up, Answering::Later(_)));
    assert_eq!(freed.load(Ordering::Relaxed), 0);
    drop(given_up);
    assert_eq!(freed.load(Ordering::Relaxed), 1);
    assert!(engine.counters().queued > 1, "its turn has not come");
    before.into_iter().for_each(|each| drop(finish(each).unwrap()));
}

#[test]
fn what_would_wait_too_long_is_refused_at_once() {
    let engine = engine(BOUNDS);
    let mut bounded = slow();
    bounded.limits.max_wait_us = 1_000_000;
    let pipeline = several(&engine, &[bounded.clone(), echo()]);
    let first = send(&pipeline, row("slow").encode_to_vec());
    // Until more than a second of it is ahead.
    let mut waiting = Vec::new();
    let refused = loop {
        match send(&pipeline, row("slow").encode_to_vec()) {
            Answering::Now(refused) => break refused.unwrap_err(),
            later => waiting.push(later),
        }
        assert!(waiting.len() < 60, "{:?}", engine.counters().queue_wait);
    };
    assert_eq!(refused.reason, Some(Reason::Overloaded));
    assert!(
        refused.message.ends_with("model=slow bound_us=1000000"),
        "{}",
        refused.message
    );
    let deadline = Some(Instant::now() + Duration::from_millis(100));
    let late = answer(
        &pipeline,
        &row("slow"),
        Arrival {
            deadline,
            ..arrival()
        },
    )
    .unwrap_err();
    assert_eq!(late.reason, Some(Reason::Overloaded));
    answer(
        &pipeline,
        &row("echo"),
        Arrival {
            deadline,
            ..arrival()
        },
    )
    .unwrap();
    drop(waiting);
    finish(first).unwrap();
    eventually("the queue empties", || engine.counters().queue_wait.is_zero());
    answer(&pipeline, &row("slow"), arrival()).unwrap();
    let arrived = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
    let waited = answer(&pipeline, &row("slow"), Arrival { arrived, ..arrival() }).unwrap_err();
    assert_eq!(waited.reason, Some(Reason::Overloaded));
    assert_eq!(
        engine.counters().versions[1].1.errors[&Some(Reason::Overloaded)],
        3
    );
}

#[test]
fn a_deadline_that_passed_is_not_run_and_one_that_passes_is_said() {
    let engine = engine(BOUNDS);
    let pipeline = several(&engine, &[slow(), echo()]);
    let passed = Arrival {
        deadline: Some(Instant::now()),
        ..arrival()
    };
    for model in ["echo", "slow"] {
        let refused = answer(&pipeline, &row(model), passed.clone()).unwrap_err();
        assert_eq!(
            (refused.message.as_str(), refused.reason),
            ("DEADLINE", Some(Reason::Deadline))
        );
    }
    let many = infer_request("slow", "features", &floats(&[2, 3], &[1.0; 6]));
    let deadline = Some(Instant::now() + Duration::from_millis(3));
    let refused = answer(
        &pipeline,
        &many,
        Arrival {
            deadline,
            ..arrival()
        },
    )
    .unwrap_err();
    assert!(
        ["DEADLINE_RAN", "DEADLINE"].contains(&refused.message.as_str()),
        "{}",
        refused.message
    );
    let mut hurried = echo();
    hurried.model = "hurried".to_owned();
    hurried.limits.default_deadline_us = 1000;
    let pipeline = {
        drop((pipeline, engine));
        let engine = support::engine(BOUNDS);
        let pipeline = several(&engine, &[hurried]);
        answer(&pipeline, &row("hurried"), arrival()).unwrap();
        let arrived = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let refused = answer(&pipeline, &row("hurried"), Arrival { arrived, ..arrival() }).unwrap_err();
        assert_eq!(refused.message, "DEADLINE");
        pipeline
    };
    drop(pipeline);
}

#[test]
fn bounds_hold_for_all_and_for_each_client() {
    let engine = engine(PipelineBounds {
        max_in_flight: 3,
        max_in_flight_per_client: 2,
        ..BOUNDS
    });
    let pipeline = several(&engine, &[slow()]);
    let client = Arc::new(Client::default());
    let of = |client: &Arc<Client>| Arrival {
        client: Some(Arc::clone(client)),
        ..arrival()
    };
    let send = |arrival| pipeline.answer(Protocol::Infer, row("slow").encode_to_vec().into(), arrival);
    let taken = [send(of(&client)), send(of(&client))];
    let Answering::Now(Err(refused)) = send(of(&client)) else {
        panic!("accepted")
    };
    assert_eq!(
        (refused.message.as_str(), refused.reason),
        ("CLIENT_IN_FLIGHT count=3 bound=2", Some(Reason::RateLimited))
    );
    let other = send(of(&Arc::default()));
    assert!(matches!(other, Answering::Later(_)));
    let Answering::Now(Err(refused)) = send(arrival()) else {
        panic!("accepted")
    };
    assert_eq!(
        (refused.message.as_str(), refused.reason),
        ("OVERLOADED_IN_FLIGHT count=4 bound=3", Some(Reason::Overloaded))
    );
    assert_eq!(
        (
            client.in_flight.load(Ordering::Relaxed),
            engine.counters().in_flight
        ),
        (2, 3)
    );
    drop((taken, other));
    assert_eq!(
        (
            client.in_flight.load(Ordering::Relaxed),
            engine.counters().in_flight
        ),
        (0, 0)
    );
    engine.set_draining(true);
    let Answering::Now(Err(refused)) = send(arrival()) else {
        panic!("accepted")
    };
    assert_eq!(refused.message, "DRAINING");
    let refused = engine.counters().refused;
    let key = |reason| ("slow".to_owned(), Some(reason));
    assert_eq!(
        refused[&key(Reason::RateLimited)]
            + refused[&key(Reason::Overloaded)]
            + refused[&key(Reason::Draining)],
        3
    );
}

#[test]
fn requests_find_their_version() {
    let engine = engine(BOUNDS);
    let second = VersionPlan {
        version: "2".to_owned(),
        ..echo()
    };
    let tenth = VersionPlan {
        version: "10".to_owned(),
        ..echo()
    };
    engine.keep(engine.prepare(echo(), None).unwrap());
    assert!(
        engine
            .share(VersionPlan {
                digest: vec![1; 32].into(),
                ..echo()
            })
            .is_none()
    );
    for version in [&second, &tenth] {
        assert!(engine.share(version.clone()).unwrap().run_time_ns > 0);
    }
    let mut plan = plan_of(7, &echo());
    let model = plan.models.get_mut("echo").unwrap();
    model
        .versions
        .insert("2".to_owned(), (second.digest.clone(), Role::Canary));
    model
        .versions
        .insert("10".to_owned(), (tenth.digest.clone(), Role::Previous));
    let half = u64::MAX / 2;
    model.segments[0].upper_bound = half;
    model.segments.push(Segment {
        upper_bound: u64::MAX,
        version: "2".to_owned(),
        role: Role::Canary,
    });
    model.pins = vec!["2".to_owned(), "10".to_owned()];
    plan.not_loaded = [("late", ""), ("bad", "no file")]
        .map(|(name, why)| (name.into(), why.into()))
        .into();
    engine.install(plan.clone()).unwrap();
    let pipeline = engine.pipeline(0).unwrap();
    let answered_by =
        |request: &oip::ModelInferRequest| answer(&pipeline, request, arrival()).unwrap().model_version;
    let pinned = |version: &str| oip::ModelInferRequest {
        model_version: version.to_owned(),
        ..row("echo")
    };
    let keyed = |id: &str| oip::ModelInferRequest {
        id: id.to_owned(),
        ..row("echo")
    };
    assert_eq!(answered_by(&pinned("10")), "10");
    let split: Vec<_> = (0..40).map(|id| answered_by(&keyed(&id.to_string()))).collect();
    assert!(split.contains(&"1".to_owned()) && split.contains(&"2".to_owned()));
    assert_eq!(
        split,
        (0..40)
            .map(|id| answered_by(&keyed(&id.to_string())))
            .collect::<Vec<_>>()
    );
    let texts = [
        (pinned("3"), "UNKNOWN_VERSION version=3 model=echo known=1, 2, 10"),
        (pinned("1"), "PIN_REFUSED version=1 model=echo"),
        (row("other"), "UNKNOWN_MODEL model=other known=echo"),
        (row("late"), "LOADING model=late"),
        (row("bad"), "NOT_LOADED model=bad why=no file"),
    ];
    for (request, text) in texts {
        assert_eq!(refusal(&pipeline, &request).message, text);
    }
    let refused = engine.counters().refused;
    assert_eq!(
        refused[&("".to_owned(), Some(Reason::NotFound))],
        1,
        "a client makes no labels"
    );
    assert_eq!(refused[&("late".to_owned(), Some(Reason::Loading))], 1);
    let halt = Halt {
        reason: "news".to_owned(),
        actor: "anna".to_owned(),
    };
    plan.models.get_mut("echo").unwrap().halt = Some(halt);
    engine.install(plan.clone()).unwrap();
    assert_eq!(
        refusal(&pipeline, &row("echo")).message,
        "HALTED model=echo actor=anna why=news"
    );
    let mut unprepared = plan;
    unprepared
        .models
        .get_mut("echo")
        .unwrap()
        .versions
        .insert("4".to_owned(), (second.digest, Role::Previous));
    let error = engine.install(unprepared).unwrap_err();
    assert_eq!(
        error.to_string(),
        "version 4 of model 'echo' is in the plan and not prepared"
    );
    assert_eq!(
        refusal(&pipeline, &row("echo")).message,
        "HALTED model=echo actor=anna why=news"
    );
}

#[test]
fn an_answer_over_the_bound_is_refused() {
    let engine = engine(PipelineBounds {
        max_answer_bytes: 500,
        ..BOUNDS
    });
    let pipeline = several(&engine, &[echo()]);
    let rows = |rows: i64| {
        infer_request(
            "echo",
            "features",
            &floats(&[rows, 3], &vec![0.5; rows as usize * 3]),
        )
    };
    answer(&pipeline, &rows(1), arrival()).unwrap();
    let refused = refusal(&pipeline, &rows(60));
    assert!(refused.message.starts_with("ANSWER_TOO_LONG size=") && refused.message.ends_with("bound=500"));
    let counts = &engine.counters().versions[0].1;
    assert_eq!((counts.answered, counts.errors.values().sum::<u64>()), (1, 1));
}

#[test]
fn messages_that_are_none_are_refused_and_counted() {
    let engine = engine(BOUNDS);
    let pipeline = several(&engine, &[echo()]);
    for protocol in [
        Protocol::Infer,
        Protocol::InferStream,
        Protocol::Predict,
        Protocol::PredictStream,
    ] {
        let answering = pipeline.answer(protocol, vec![0xff; 4].into(), arrival());
        let Answering::Now(Err(refused)) = answering else {
            panic!("answered")
        };
        assert!(
            refused.message.starts_with("MALFORMED message="),
            "{}",
            refused.message
        );
    }
    assert_eq!(
        engine.counters().refused[&("".to_owned(), Some(Reason::InvalidInput))],
        4
    );
}

#[test]
fn descriptions_come_from_the_plan_and_statistics_from_the_counts() {
    let engine = engine(BOUNDS);
    engine.keep(engine.prepare(echo(), None).unwrap());
    let mut plan = plan_of(1, &echo());
    let model = plan.models.get_mut("echo").unwrap();
    for (call, name) in [
        (Describing::ModelMetadata, "metadata"),
        (Describing::ModelConfig, "config"),
        (Describing::GetModel, "info"),
    ] {
        model.described.insert((call, String::new()), name.into());
    }
    plan.repository_index = "all".into();
    plan.repository_index_ready = "ready".into();
    engine.install(plan).unwrap();
    let pipeline = engine.pipeline(0).unwrap();
    let named = |name: &str| {
        oip::ModelMetadataRequest {
            name: name.to_owned(),
            version: String::new(),
        }
        .encode_to_vec()
    };
    let ask = |call, message: &[u8]| pipeline.describe(call, message).map(|answer| answer.to_vec());
    // The same two fields in all of these requests.
    assert_eq!(ask(Describe::ModelMetadata, &named("echo")).unwrap(), b"metadata");
    assert_eq!(ask(Describe::ModelConfig, &named("echo")).unwrap(), b"config");
    assert_eq!(ask(Describe::GetModel, &named("echo")).unwrap(), b"info");
    assert_eq!(ask(Describe::ServerMetadata, b"").unwrap(), b"metadata");
    assert_eq!(ask(Describe::RepositoryIndex, b"").unwrap(), b"all");
    let ready = oip::RepositoryIndexRequest {
        ready: true,
        ..Default::default()
    };
    assert_eq!(
        ask(Describe::RepositoryIndex, &ready.encode_to_vec()).unwrap(),
        b"ready"
    );
    let elsewhere = oip::RepositoryIndexRequest {
        repository_name: "other".to_owned(),
        ready: false,
    };
    assert_eq!(
        ask(Describe::RepositoryIndex, &elsewhere.encode_to_vec())
            .unwrap_err()
            .message,
        "NO_REPOSITORY name=other"
    );
    let is_ready = |name: &str| {
        let answer = ask(Describe::ModelReady, &named(name)).unwrap();
        oip::ModelReadyResponse::decode(&answer[..]).unwrap().ready
    };
    assert_eq!((is_ready("echo"), is_ready("other")), (true, false));
    assert_eq!(
        ask(Describe::ModelMetadata, &named("other")).unwrap_err().message,
        "UNKNOWN_MODEL model=other known=echo"
    );
    assert_eq!(
        ask(Describe::GetModel, &[0xff; 3]).unwrap_err().message,
        "MALFORMED message=GetModelRequest"
    );
    answer(
        &pipeline,
        &infer_request("echo", "features", &floats(&[2, 3], &[0.0; 6])),
        arrival(),
    )
    .unwrap();
    for name in ["", "echo"] {
        let answer = ask(Describe::ModelStatistics, &named(name)).unwrap();
        let statistics = &oip::ModelStatisticsResponse::decode(&answer[..])
            .unwrap()
            .model_stats[0];
        assert_eq!(
            (
                statistics.name.as_str(),
                statistics.inference_count,
                statistics.execution_count
            ),
            ("echo", 2, 1)
        );
        let stages = statistics.inference_stats.as_ref().unwrap();
        let total = stages.success.as_ref().unwrap().ns;
        let parts = [
            &stages.compute_input,
            &stages.compute_infer,
            &stages.compute_output,
        ];
        assert_eq!(
            parts.map(|part| part.as_ref().unwrap().ns).iter().sum::<u64>(),
            total
        );
    }
    assert_eq!(pipeline.refuse(Refused::AdminOnly).message, "ADMIN_ONLY");
    assert_eq!(
        pipeline.refuse(Refused::UnknownService("x")).message,
        "UNKNOWN_SERVICE service=x"
    );
}
