//! What a shadow of every request costs the thread that answers: a whole request without one, with one, and with one
//! whose runs are held against an edge, by turns, in processor time of the thread. First in bursts, between which the
//! copies run: what handing over costs. Then with pauses that leave the thread idle for most of the time, in which they
//! run: what they do to the caches is in it too. `shadow_cost MODEL.onnx WIDTH OUTPUT OUTPUT_WIDTH`; the input is
//! `features`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/tap/files.rs"]
mod tap_files;

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use support::*;
use tap_files::Scratch;
use tickserve_core::engine::Engine;
use tickserve_core::pipeline::Pipeline;
use tickserve_core::plan::{Datatype, Role, Shadow, TapPlan, TappedVersion, VersionPlan};
use tickserve_core::service::{Answering, Protocol, Service};
use tickserve_core::shared::PipelineBounds;
use tickserve_core::tap::layout::ring;
use tickserve_core::wire::tickserve::v1::PredictRequest;

const ROUNDS: usize = 200;
/// Fewer than the queue takes before it wakes the shadow.
const EACH: usize = 100;
const SLOTS: u64 = 1024;
const PAUSE: Duration = Duration::from_micros(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, width, output, output_width] = &arguments[..] else {
        panic!("usage: shadow_cost MODEL.onnx WIDTH OUTPUT OUTPUT_WIDTH")
    };
    let (width, output_width): (usize, i64) = (width.parse().unwrap(), output_width.parse().unwrap());
    let version = |number: &str| {
        let mut version = version_plan("model", number, Path::new(model));
        version.inputs = vec![spec("features", Datatype::Fp32, &[-1, width as i64])];
        version.outputs = vec![spec(output, Datatype::Fp32, &[-1, output_width])];
        version.digest = Bytes::from(number.repeat(32));
        version
    };
    let versions = [version("1"), version("2")];
    let benches = [
        ("without", Bench::new(&versions, None)),
        ("with", Bench::new(&versions, Some(0))),
        ("with, and an edge", Bench::new(&versions, Some(1_000_000))),
    ];
    let request = PredictRequest {
        model: "model".into(),
        routing_key: "EURUSD".into(),
        features: vec![0.25; width],
        ..Default::default()
    };
    let request: Bytes = request.encode_to_vec().into();
    for (what, pause) in [("in bursts", None), ("with pauses", Some(PAUSE))] {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for ((_, bench), times) in benches.iter().zip(&mut times) {
                times.push(bench.round(&request, pause));
                bench.settle();
            }
        }
        println!("{what}:");
        let plain = times[0].clone();
        for ((name, bench), times) in benches.iter().zip(&mut times) {
            let mut ratios: Vec<f64> = times.iter().zip(&plain).map(|(one, other)| one / other).collect();
            ratios.sort_by(f64::total_cmp);
            times.sort_by(f64::total_cmp);
            let (least, median, ratio) = (times[0], times[ROUNDS / 2], ratios[ROUNDS / 2]);
            let dropped: u64 = bench.engine.counters().shadow_dropped.values().sum();
            println!(
                "{name:18} {least:7.0} ns least, {median:7.0} ns median, {ratio:.3} of without by the medians of rounds, \
                 {dropped} copies dropped so far"
            );
        }
    }
}

struct Bench {
    engine: Engine,
    pipeline: Pipeline,
    rings: [Scratch; 2],
    _page: Scratch,
}

impl Bench {
    /// With a shadow where an edge is given; 0 is none.
    fn new(versions: &[VersionPlan; 2], shadow_edge_ns: Option<u64>) -> Self {
        let engine = engine(PipelineBounds {
            max_shadow_queue: 4 * EACH,
            ..BOUNDS
        });
        let rings = [Scratch::ring(512, SLOTS, 16), Scratch::ring(512, SLOTS, 16)];
        let page = Scratch::page(3, 2);
        let paths = rings.each_ref().map(|ring| ring.path().to_owned());
        engine.open_tap(&paths, page.path()).unwrap();
        for version in versions {
            engine.keep(engine.prepare(version.clone(), None).unwrap());
        }
        let mut plan = plan_of(1, &versions[0]);
        let model = plan.models.get_mut("model").unwrap();
        let other = (versions[1].digest.clone(), Role::Previous);
        model.versions.insert("2".to_owned(), other);
        model.shadow = shadow_edge_ns.map(|_| Shadow {
            version: "2".to_owned(),
            fraction_bp: 10_000,
            salt: Bytes::from_static(b"shadow"),
            of: String::new(),
        });
        let live = TappedVersion {
            number: 0,
            block: Some(0),
            compared: shadow_edge_ns.map(|_| 1),
        };
        model.tap = TapPlan {
            split_generation: 1,
            latency_edge_ns: shadow_edge_ns.unwrap_or(0),
            versions: [("1".to_owned(), live), ("2".to_owned(), tapped_version(1, 2))].into(),
            shadow: shadow_edge_ns.map(|_| 2),
        };
        engine.install(plan).unwrap();
        let pipeline = engine.pipeline(0).unwrap();
        Self {
            engine,
            pipeline,
            rings,
            _page: page,
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
        self.pipeline.answered();
    }

    /// Processor time of a request, over a round.
    fn round(&self, message: &Bytes, pause: Option<Duration>) -> f64 {
        let mut spent_ns = 0;
        for _ in 0..EACH {
            let start = cpu_ns();
            self.ask(message);
            spent_ns += cpu_ns() - start;
            if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
        }
        spent_ns as f64 / EACH as f64
    }

    /// Lets the shadow run what waits, and empties the rings.
    fn settle(&self) {
        while self.engine.counters().shadow_queued > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.rings.iter().for_each(consume);
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
