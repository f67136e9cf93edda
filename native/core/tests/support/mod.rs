//! What tests and examples of the whole engine share: the runtime's library, small models, their plans.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use tickserve_core::call::{Elements, Tensor};
use tickserve_core::engine::{Engine, Settings};
use tickserve_core::pipeline::Pipeline;
use tickserve_core::plan::{
    Datatype, EventTimeRule, InputRules, Limits, ModelPlan, Plan, Policy, Role, Segment, TapPlan,
    TappedVersion, TensorSpec, VersionPlan,
};
use tickserve_core::reflection::Reflection;
use tickserve_core::refusal::Refusal;
use tickserve_core::service::{Answering, Arrival, Protocol, Service};
use tickserve_core::shared::PipelineBounds;
use tickserve_core::texts::{Entry, Name, Texts};
use tickserve_core::wire::inference::model_infer_request::InferInputTensor as ModelInferRequestInput;
use tickserve_core::wire::inference::{ModelInferRequest, ModelInferResponse};

/// A bound on every wait.
pub const BOUND: Duration = Duration::from_secs(30);

/// The library of an installed onnxruntime: where TICKSERVE_ONNXRUNTIME says, or in the environment beside the sources.
/// Without one the test fails: one that is skipped looks like one that passed.
pub fn onnxruntime() -> PathBuf {
    if let Some(path) = std::env::var_os("TICKSERVE_ONNXRUNTIME") {
        return path.into();
    }
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/lib");
    let versions = std::fs::read_dir(python).into_iter().flatten().flatten();
    let capis = versions.map(|version| version.path().join("site-packages/onnxruntime/capi"));
    let mut files = capis.flat_map(|capi| std::fs::read_dir(capi).into_iter().flatten().flatten());
    let library = files.find(|file| {
        file.file_name()
            .to_string_lossy()
            .starts_with("libonnxruntime.so.")
    });
    library
        .expect("make setup installs onnxruntime, or TICKSERVE_ONNXRUNTIME names its library")
        .path()
}

pub fn model_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/models/{name}.onnx"))
}

pub fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
    }
}

/// Of three floats a row to three floats a row, without rules.
pub fn version_plan(model: &str, version: &str, file: &Path) -> VersionPlan {
    let bytes = std::fs::read(file).unwrap_or_default();
    let sha256 = Sha256::digest(&bytes);
    VersionPlan {
        model: model.to_owned(),
        version: version.to_owned(),
        digest: Bytes::copy_from_slice(&sha256),
        model_sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        model_file: file.to_owned(),
        inputs: vec![spec("features", Datatype::Fp32, &[-1, 3])],
        outputs: vec![spec("values", Datatype::Fp32, &[-1, 3])],
        feature_names: Vec::new(),
        feature_digest: Bytes::new(),
        signal: None,
        confidence: None,
        input_rules: InputRules {
            finite: true,
            defaults: BTreeMap::new(),
            bounds: Vec::new(),
            event_time: EventTimeRule {
                required: false,
                max_age_s: None,
                max_future_s: None,
                policy: Policy::Reject,
            },
        },
        output_rules: Vec::new(),
        limits: Limits {
            max_rows: 4096,
            default_deadline_us: 0,
            max_wait_us: 0,
            latency_budget_us: 0,
        },
    }
}

/// A plan of one model with one version, which any client may pin.
pub fn plan_of(generation: u64, version: &VersionPlan) -> Plan {
    let model = ModelPlan {
        name: version.model.clone(),
        versions: BTreeMap::from([(version.version.clone(), (version.digest.clone(), Role::Stable))]),
        salt: Bytes::new(),
        segments: vec![Segment {
            upper_bound: u64::MAX,
            version: version.version.clone(),
            role: Role::Stable,
        }],
        pins: vec![version.version.clone()],
        client_pins: Vec::new(),
        halt: None,
        position_scale: 1.0,
        described: BTreeMap::new(),
        shadow: None,
        fallback: String::new(),
        tap: TapPlan::default(),
    };
    Plan {
        generation,
        models: BTreeMap::from([(version.model.clone(), model)]),
        ..Plan::default()
    }
}

/// What the tap calls a version that nothing is compared with.
pub fn tapped_version(number: u32, block: u32) -> TappedVersion {
    TappedVersion {
        number,
        block: Some(block),
        compared: None,
    }
}

pub fn floats(shape: &[i64], values: &[f32]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    numbers(Datatype::Fp32, shape, data)
}

pub fn numbers(datatype: Datatype, shape: &[i64], data: Vec<u8>) -> Tensor {
    Tensor {
        datatype,
        shape: shape.to_vec(),
        elements: Elements::Numbers(Bytes::from(data)),
    }
}

pub fn data(tensor: &Tensor) -> &Bytes {
    match &tensor.elements {
        Elements::Numbers(data) => data,
        Elements::Strings(_) => panic!("strings"),
    }
}

/// Every text, as its name and its facts, with the reason that the name tells.
pub fn texts() -> Texts {
    let entry = |name: &Name| {
        let facts: Vec<_> = name
            .facts()
            .iter()
            .map(|fact| format!(" {fact}={{{fact}}}"))
            .collect();
        let label = name.label();
        let known = [
            "OVERLOADED",
            "DRAINING",
            "HALTED",
            "LOADING",
            "NOT_LOADED",
            "PIN_REFUSED",
            "DEADLINE",
            "INTERNAL",
        ];
        let reason = match known.iter().find(|start| label.starts_with(**start)) {
            Some(&"NOT_LOADED") => "LOADING",
            Some(reason) => reason,
            None if label.starts_with("CLIENT") => "RATE_LIMITED",
            None if label.starts_with("UNKNOWN") => "NOT_FOUND",
            None => "INVALID_INPUT",
        };
        Entry {
            name: label.to_owned(),
            code: "INTERNAL".to_owned(),
            reason: Some(reason.to_owned()),
            template: format!("{label}{}", facts.concat()),
            executed: false,
        }
    };
    Texts::new(Name::ALL.iter().map(entry)).unwrap()
}

pub const BOUNDS: PipelineBounds = PipelineBounds {
    max_in_flight: 64,
    max_in_flight_per_client: 4,
    max_answer_bytes: 1 << 20,
    max_shadow_queue: 64,
    max_shadow_bytes: 1 << 20,
};

/// An engine of one worker and one thread in the pool.
pub fn engine(bounds: PipelineBounds) -> Engine {
    engine_of(bounds, 1, 1)
}

pub fn engine_of(bounds: PipelineBounds, workers: usize, pool_threads: usize) -> Engine {
    let server_metadata = Bytes::from_static(b"metadata");
    let texts = Arc::new(texts());
    let reflection = Reflection::new([], [], Arc::clone(&texts)).unwrap();
    let settings = Settings {
        workers,
        pool_threads,
        bounds,
        texts,
        server_metadata,
        reflection,
    };
    Engine::start(&onnxruntime(), settings).unwrap()
}

/// Prepares a version and makes a plan of it the installed one.
pub fn serve(engine: &Engine, generation: u64, version: &VersionPlan) {
    engine.keep(engine.prepare(version.clone(), None).unwrap());
    engine.install(plan_of(generation, version)).unwrap();
}

/// Of one tensor of raw contents.
pub fn infer_request(model: &str, tensor: &str, input: &Tensor) -> ModelInferRequest {
    let datatype = format!("{:?}", input.datatype).to_uppercase();
    let input_of = ModelInferRequestInput {
        name: tensor.to_owned(),
        datatype,
        shape: input.shape.clone(),
        ..Default::default()
    };
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![input_of],
        raw_input_contents: vec![data(input).clone()],
        ..Default::default()
    }
}

pub fn arrival() -> Arrival {
    Arrival {
        arrived: Instant::now(),
        deadline: None,
        client: None,
        identity: "ipv4:127.0.0.1".into(),
    }
}

/// The answer to a request, however long it takes.
pub fn answer(
    pipeline: &Pipeline,
    request: &ModelInferRequest,
    arrival: Arrival,
) -> Result<ModelInferResponse, Refusal> {
    finish(pipeline.answer(Protocol::Infer, request.encode_to_vec().into(), arrival))
}

pub fn finish(answering: Answering) -> Result<ModelInferResponse, Refusal> {
    let answer = match answering {
        Answering::Now(answer) => answer,
        Answering::Later(answer) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async { tokio::time::timeout(BOUND, answer).await.expect("in time") })
        }
    };
    answer.map(|bytes| ModelInferResponse::decode(bytes).unwrap())
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < BOUND, "{what}");
        std::thread::yield_now();
    }
}

/// Processor time of this thread alone: what others do on the machine counts only by what it does to the caches.
pub fn cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}
