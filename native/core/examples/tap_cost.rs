//! What the tap costs a request: its parts alone, and a whole request with and without it by turns, in processor time of
//! the thread. `tap_cost MODEL.onnx WIDTH OUTPUT OUTPUT_WIDTH [REQUESTS]`; the input is `features`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/tap/files.rs"]
mod tap_files;

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use support::*;
use tap_files::Scratch;
use tickserve_core::counters::Durations;
use tickserve_core::engine::Engine;
use tickserve_core::pipeline::Pipeline;
use tickserve_core::plan::{Datatype, Role, TapPlan, VersionPlan};
use tickserve_core::routing;
use tickserve_core::service::{Answering, Protocol, Service};
use tickserve_core::tap::layout::{flag, ring};
use tickserve_core::tap::{Columns, Entities, Page, Record, RingWriter, Why};
use tickserve_core::wire::tickserve::v1::PredictRequest;

const ROUNDS: usize = 400;
const SLOTS: u64 = 16_384;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, width, output, output_width, requests @ ..] = &arguments[..] else {
        panic!("usage: tap_cost MODEL.onnx WIDTH OUTPUT OUTPUT_WIDTH [REQUESTS]")
    };
    let (width, output_width): (usize, i64) = (width.parse().unwrap(), output_width.parse().unwrap());
    let requests: usize = requests
        .first()
        .map_or(200_000, |requests| requests.parse().unwrap());
    let mut version = version_plan("model", "1", Path::new(model));
    version.inputs = vec![spec("features", Datatype::Fp32, &[-1, width as i64])];
    version.outputs = vec![spec(output, Datatype::Fp32, &[-1, output_width])];

    let (file, counters) = (Scratch::ring(512, SLOTS, 128), Scratch::page(2, 1));
    let tapped = Bench::new(&version, Some((&file, &counters)));
    let plain = Bench::new(&version, None);
    let (own_ring, own_page) = (Scratch::ring(512, SLOTS, 128), Scratch::page(2, 1));
    let mut writer = RingWriter::open(own_ring.path()).unwrap();
    let page = Page::open(own_page.path()).unwrap();
    let input = floats(&[1, width as i64], &vec![0.25; width]);
    let answer = floats(&[1, output_width], &vec![0.5; output_width as usize]);
    let record = Record {
        time_unix_ns: 1,
        event_time_unix_ns: 2,
        plan_generation: 3,
        split_generation: 4,
        durations: Durations::default(),
        version: 0,
        rows: 1,
        status: 0,
        reason: 0,
        role: Role::Stable,
        why: Why::Split,
        key_bucket: 9,
        flags: flag::EXECUTED | flag::READ | flag::RAN,
        request_id: "5f1d0c2ab39e-1a",
        routing_key: "EURUSD",
        trace_id: [0; 16],
        inputs: std::slice::from_ref(&input),
        received: None,
        outputs: std::slice::from_ref(&answer),
        entities: Entities::Commas("EURUSD"),
        findings: &[],
        findings_left_out: 0,
        broken_rules: &[],
    };
    let request = PredictRequest {
        model: "model".into(),
        routing_key: "EURUSD".into(),
        entities: vec!["EURUSD".into()],
        features: vec![0.25; width],
        ..Default::default()
    };
    let request: Bytes = request.encode_to_vec().into();

    let each = requests.div_ceil(ROUNDS).min(SLOTS as usize / 2);
    let names = [
        "ring: one record",
        "page: one request",
        "key bucket",
        "Predict without",
        "Predict with",
    ];
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        let mut measure = |index: usize, run: &mut dyn FnMut()| {
            let start = cpu_ns();
            (0..each).for_each(|_| run());
            times[index].push((cpu_ns() - start) as f64 / each as f64);
        };
        measure(0, &mut || {
            assert!(writer.write(black_box(&record)));
        });
        let mut bucket = 0_u8;
        measure(1, &mut || {
            bucket = bucket.wrapping_add(37);
            page.count(0, 1, bucket, Columns::default());
        });
        measure(2, &mut || {
            black_box(routing::place(black_box(b"salt"), black_box(b"EURUSD")).bucket);
        });
        measure(3, &mut || plain.ask(&request));
        measure(4, &mut || tapped.ask(&request));
        consume(&own_ring);
        consume(&file);
    }
    for (name, times) in names.into_iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        println!(
            "{name:18} {:7.0} ns least, {:7.0} ns median",
            times[0],
            times[ROUNDS / 2]
        );
    }
    println!(
        "the tap of a request: {:.0} ns by the least, {:.0} ns by the medians",
        times[4][0] - times[3][0],
        times[4][ROUNDS / 2] - times[3][ROUNDS / 2]
    );
}

struct Bench {
    _engine: Engine,
    pipeline: Pipeline,
}

impl Bench {
    fn new(version: &VersionPlan, tap: Option<(&Scratch, &Scratch)>) -> Self {
        let engine = engine(BOUNDS);
        engine.keep(engine.prepare(version.clone(), None).unwrap());
        let mut plan = plan_of(1, version);
        if let Some((ring, page)) = tap {
            engine.open_tap(&[ring.path().to_owned()], page.path()).unwrap();
            plan.models.get_mut("model").unwrap().tap = TapPlan {
                split_generation: 1,
                latency_edge_ns: 0,
                versions: [("1".to_owned(), tapped_version(0, 1))].into(),
                shadow: None,
            };
        }
        engine.install(plan).unwrap();
        let pipeline = engine.pipeline(0).unwrap();
        Self {
            _engine: engine,
            pipeline,
        }
    }

    fn ask(&self, message: &Bytes) {
        match self
            .pipeline
            .answer(Protocol::Predict, message.clone(), arrival())
        {
            Answering::Now(answer) => drop(black_box(answer.unwrap())),
            Answering::Later(_) => panic!("it ran on the pool"),
        }
    }
}

/// What a reader does at the end of a batch.
fn consume(file: &Scratch) {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file.path())
        .unwrap();
    let mut head = [0; 8];
    opened.read_exact_at(&mut head, ring::HEAD as u64).unwrap();
    opened.write_all_at(&head, ring::TAIL as u64).unwrap();
}
