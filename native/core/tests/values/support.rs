//! A version to hold requests against, and texts that show their facts.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tickserve_core::call::{Call, Elements, Tensor};
use tickserve_core::decode::{Schema, Shape, parse};
use tickserve_core::plan::{
    Bound, ColumnMapping, Datatype, EventTimeRule, InputRules, Limits, OutputRule, OutputRuleKind, Policy,
    TensorSpec, VersionPlan,
};
use tickserve_core::refusal::Refusal;
use tickserve_core::service::Protocol;
use tickserve_core::texts::{Entry, Name, Texts};
use tickserve_core::wire::inference::ModelInferRequest;
use tickserve_core::wire::inference::model_infer_request::InferInputTensor;

pub const NOW_UNIX_NS: i64 = 1_700_000_000_000_000_000;

/// Every text is its name and its facts: `NAME fact=value`.
pub fn texts() -> Texts {
    let entry = |name: &Name| Entry {
        name: name.label().into(),
        code: "INVALID_ARGUMENT".into(),
        reason: Some("INVALID_INPUT".into()),
        template: name.facts().iter().fold(name.label().to_owned(), |text, fact| {
            format!("{text} {fact}={{{fact}}}")
        }),
        executed: false,
    };
    Texts::new(Name::ALL.iter().map(entry)).unwrap()
}

/// One FP32 tensor of features `a`, `b` and `c`; probabilities and a total out; no rules.
pub fn version() -> VersionPlan {
    VersionPlan {
        model: "m".into(),
        version: "3".into(),
        digest: Bytes::from_static(&[0xAB; 32]),
        model_sha256: String::new(),
        model_file: "model.onnx".into(),
        inputs: vec![spec("x", Datatype::Fp32, &[-1, 3])],
        outputs: vec![
            spec("p", Datatype::Fp32, &[-1, 2]),
            spec("total", Datatype::Int64, &[-1]),
        ],
        feature_names: ["a", "b", "c"].map(str::to_owned).to_vec(),
        feature_digest: Bytes::from_static(&[0xCD; 32]),
        signal: Some(ColumnMapping {
            output: "p".into(),
            column: Some(1),
            scale: 2.0,
            offset: -1.0,
        }),
        confidence: Some(ColumnMapping {
            output: "p".into(),
            column: None,
            scale: 1.0,
            offset: 0.0,
        }),
        input_rules: InputRules {
            finite: true,
            defaults: [("c".to_owned(), 0.5)].into(),
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
            max_rows: 8,
            default_deadline_us: 0,
            max_wait_us: 0,
            latency_budget_us: 0,
        },
    }
}

pub fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
    }
}

pub fn bound(low: f64, high: f64, policy: Policy) -> Bound {
    Bound {
        low,
        high,
        policy: Some(policy),
    }
}

pub fn rule(name: &str, kind: OutputRuleKind, low: f64, high: f64, policy: Policy) -> OutputRule {
    OutputRule {
        name: name.into(),
        output: "p".into(),
        kind,
        low,
        high,
        policy,
    }
}

pub fn floats(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn tensor(shape: &[i64], values: &[f32]) -> Tensor {
    Tensor {
        datatype: Datatype::Fp32,
        shape: shape.to_vec(),
        elements: Elements::Numbers(floats(values)),
    }
}

pub fn call(inputs: Vec<Tensor>, rows: u64) -> Call {
    Call {
        inputs,
        rows,
        request_id: "id".into(),
        event_time_unix_ns: 0,
        timeout_us: 0,
        outputs: None,
        findings: Default::default(),
        received: None,
    }
}

/// What `call` holds of numbers, as float32.
pub fn read_floats(tensor: &Tensor) -> Vec<f32> {
    let Elements::Numbers(data) = &tensor.elements else {
        return Vec::new();
    };
    data.as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

pub fn infer_input(datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: "x".into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

pub fn infer(input: InferInputTensor, raw: &[Bytes]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![input],
        raw_input_contents: raw.to_vec(),
        ..Default::default()
    }
}

/// Takes a message the whole way to a call.
pub fn read(version: VersionPlan, protocol: Protocol, message: Bytes) -> Result<(Shape, Call), Refusal> {
    let (texts, schema) = (texts(), Schema::new(Arc::new(version)));
    let mut parsed = parse(protocol, message, &texts)?;
    parsed.target("drawn", &texts)?;
    let shape = parsed.shape(&schema, &texts)?;
    let call = parsed.read(&schema, &shape, "drawn", &texts)?;
    Ok((shape, call))
}

pub fn read_infer(version: VersionPlan, request: &ModelInferRequest) -> Result<Call, String> {
    read(version, Protocol::Infer, request.encode_to_vec().into())
        .map(|(_, call)| call)
        .map_err(|refusal| refusal.message)
}
