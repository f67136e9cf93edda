//! What one request costs from its bytes to the answer's, all features on, beside the run of the model alone: processor
//! time and allocations. `pipeline_cost MODEL.onnx WIDTH OUTPUT OUTPUT_WIDTH [REQUESTS]`; the input is `features`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use support::*;
use tickserve_core::plan::{
    Bound, ColumnMapping, Datatype, OutputRule, OutputRuleKind, Policy, Role, Segment,
};
use tickserve_core::prepare::{Seats, prepare};
use tickserve_core::seat::Room;
use tickserve_core::service::{Answering, Protocol, Service};
use tickserve_core::session::Library;
use tickserve_core::wire::tickserve::v1::PredictRequest;

thread_local! {
    static ALLOCATED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Counts what this program's Rust code allocates; ONNX Runtime has an allocator of its own.
struct Counting;

// SAFETY: everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _at_exit = ALLOCATED.try_with(|allocated| {
            let (count, bytes) = allocated.get();
            allocated.set((count + 1, bytes + layout.size() as u64));
        });
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: usize = 200;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, width, output, output_width, requests @ ..] = &arguments[..] else {
        panic!("usage: pipeline_cost MODEL.onnx WIDTH OUTPUT OUTPUT_WIDTH [REQUESTS]")
    };
    let (width, output_width): (usize, i64) = (width.parse().unwrap(), output_width.parse().unwrap());
    let requests: usize = requests
        .first()
        .map_or(20_000, |requests| requests.parse().unwrap());
    let version = featured(Path::new(model), width, output, output_width);

    let input = floats(&[1, width as i64], &vec![0.25; width]);
    let library = Library::load(&onnxruntime()).unwrap();
    let (room, mut seats) = Room::new(1);
    let alone = prepare(library, &version, Seats { room, workers: 1 }, None).unwrap();
    println!(
        "prepared: one row {} ns, {} KB resident",
        alone.figures().run_time_ns,
        alone.figures().resident_bytes >> 10
    );
    let session = alone.session(&mut seats[0]).expect("a model that runs inline");

    let engine = engine(BOUNDS);
    engine.keep(engine.prepare(version.clone(), None).unwrap());
    let mut plan = plan_of(1, &version);
    let half = Segment {
        upper_bound: u64::MAX / 2,
        version: "1".to_owned(),
        role: Role::Stable,
    };
    plan.models.get_mut("model").unwrap().segments.insert(0, half);
    engine.install(plan).unwrap();
    let pipeline = engine.pipeline(0).unwrap();
    let infer: Bytes = infer_request("model", "features", &input).encode_to_vec().into();
    let predict = PredictRequest {
        model: "model".into(),
        features: vec![0.25; width],
        ..Default::default()
    };
    let predict: Bytes = predict.encode_to_vec().into();
    let ask = |protocol, message: &Bytes| match pipeline.answer(protocol, message.clone(), arrival()) {
        Answering::Now(answer) => answer.unwrap(),
        Answering::Later(_) => panic!("it ran on the pool"),
    };

    // Short rounds of each by turns, so that a change of the machine's speed meets all of them.
    let mut times = [const { Vec::new() }; 3];
    let mut allocated = [(0, 0); 3];
    let each = requests.div_ceil(ROUNDS);
    for _ in 0..ROUNDS {
        let mut measure = |index: usize, run: &mut dyn FnMut()| {
            run();
            let (before, start) = (ALLOCATED.get(), cpu_ns());
            (0..each).for_each(|_| run());
            times[index].push((cpu_ns() - start) as f64 / each as f64);
            let after = ALLOCATED.get();
            allocated[index] = (
                (after.0 - before.0) / each as u64,
                (after.1 - before.1) / each as u64,
            );
        };
        measure(0, &mut || {
            drop(black_box(session.run(std::slice::from_ref(&input)).unwrap()))
        });
        measure(1, &mut || drop(black_box(ask(Protocol::Infer, &infer))));
        measure(2, &mut || drop(black_box(ask(Protocol::Predict, &predict))));
    }
    for (index, name) in ["session alone", "ModelInfer", "Predict"].into_iter().enumerate() {
        let (count, bytes) = allocated[index];
        let [least, alone] =
            [index, 0].map(|index| times[index].iter().copied().fold(f64::INFINITY, f64::min));
        let median = {
            times[index].sort_by(f64::total_cmp);
            times[index][ROUNDS / 2]
        };
        let more = least - alone;
        println!(
            "{name:14} {least:8.0} ns ({more:+6.0}), median {median:8.0}; {count} allocations, {bytes} bytes"
        );
    }
}

/// Every check on: finite inputs, bounds of each feature, three output rules, signal and confidence.
fn featured(file: &Path, width: usize, output: &str, output_width: i64) -> tickserve_core::plan::VersionPlan {
    let mut version = version_plan("model", "1", file);
    version.inputs = vec![spec("features", Datatype::Fp32, &[-1, width as i64])];
    version.outputs = vec![spec(output, Datatype::Fp32, &[-1, output_width])];
    version.feature_names = (0..width).map(|number| format!("feature_{number}")).collect();
    let bound = Bound {
        low: -1e6,
        high: 1e6,
        policy: Some(Policy::Clip),
    };
    version.input_rules.bounds = vec![bound; width];
    let rule = |name: &str, kind, low, high| OutputRule {
        name: name.to_owned(),
        output: output.to_owned(),
        kind,
        low,
        high,
        policy: Policy::Reject,
    };
    version.output_rules = vec![
        rule("finite", OutputRuleKind::Finite, f64::NEG_INFINITY, f64::INFINITY),
        rule("range", OutputRuleKind::Range, -1e6, 1e6),
        rule("row_sum", OutputRuleKind::RowSum, -1e6, 1e6),
    ];
    let mapping = |column| ColumnMapping {
        output: output.to_owned(),
        column,
        scale: 2.0,
        offset: -1.0,
    };
    version.signal = Some(mapping(Some(0)));
    version.confidence = Some(mapping(None));
    version.limits.latency_budget_us = 1000;
    version
}
