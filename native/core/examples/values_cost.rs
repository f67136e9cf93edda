//! Prints what reading, checking and answering one row of ten features costs, without transport and model.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use tickserve_core::call::{Elements, Tensor};
use tickserve_core::decode::{Schema, parse};
use tickserve_core::encode::{Encoder, Framing};
use tickserve_core::plan::{
    Bound, ColumnMapping, Datatype, EventTimeRule, InputRules, Limits, OutputRule, OutputRuleKind, Policy,
    Role, TensorSpec, VersionPlan,
};
use tickserve_core::refusal::Refusal;
use tickserve_core::routing::place;
use tickserve_core::rules::{InputChecks, OutputChecks};
use tickserve_core::service::Protocol;
use tickserve_core::texts::{Entry, Name, Texts};
use tickserve_core::wire::inference::ModelInferRequest;
use tickserve_core::wire::inference::model_infer_request::InferInputTensor;
use tickserve_core::wire::tickserve::v1::PredictRequest;

const FEATURES: usize = 10;
const CALLS: u32 = 200_000;
const ROUNDS: u32 = 7;
const NOW_UNIX_NS: i64 = 1_700_000_000_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let texts = texts()?;
    let version = Arc::new(version());
    let schema = Schema::new(version.clone());
    let (inputs, outputs) = (
        InputChecks::new(version.clone()),
        OutputChecks::new(version.clone()),
    );
    let encoder = Encoder::new(version.clone(), Role::Stable, 7, 1.0);
    let answered = [Tensor {
        datatype: Datatype::Fp32,
        shape: vec![1, 2],
        elements: Elements::Numbers(floats(&[0.25, 0.75])),
    }];
    let answer = |protocol, message: &Bytes| -> Result<(Bytes, [u32; 6]), Refusal> {
        let start = Instant::now();
        let mut parsed = parse(protocol, message.clone(), &texts)?;
        let parsed_at = Instant::now();
        let target = parsed.target("drawn", &texts)?;
        black_box(place(b"salt", target.key.as_bytes()));
        let routed = Instant::now();
        let shape = parsed.shape(&schema, &texts)?;
        let mut call = parsed.read(&schema, &shape, "drawn", &texts)?;
        let read = Instant::now();
        inputs.check(&mut call, NOW_UNIX_NS, &texts)?;
        let checked = Instant::now();
        outputs.check(&answered, call.rows, &mut call.findings, &texts)?;
        let validated = Instant::now();
        let framing = Framing {
            protocol,
            sequence: 0,
            max_bytes: 4 << 20,
        };
        let answer = encoder.answer(framing, &mut call, &answered, 12_345, &texts)?;
        let stages = [
            parsed_at - start,
            routed - parsed_at,
            read - routed,
            checked - read,
            validated - checked,
            validated.elapsed(),
        ];
        Ok((answer, stages.map(|stage| stage.subsec_nanos())))
    };
    println!("ns per request, best of {ROUNDS} rounds; each stage holds a reading of the clock");
    println!("{:8} {:>6}  parse  route   read  check  check encode", "", "all");
    for (name, protocol, message) in [
        ("infer", Protocol::Infer, infer_message()),
        ("predict", Protocol::Predict, predict_message()),
    ] {
        let mut best = [f64::INFINITY; 7];
        for _ in 0..ROUNDS {
            let mut sums = [0.0; 7];
            let start = Instant::now();
            for _ in 0..CALLS {
                let (answer, stages) = answer(protocol, &message).map_err(|refusal| refusal.message)?;
                black_box(answer);
                sums[1..]
                    .iter_mut()
                    .zip(stages)
                    .for_each(|(sum, stage)| *sum += f64::from(stage));
            }
            sums[0] = start.elapsed().as_nanos() as f64;
            best.iter_mut()
                .zip(sums)
                .for_each(|(best, sum)| *best = best.min(sum / f64::from(CALLS)));
        }
        let shown: String = best.iter().map(|stage| format!(" {stage:6.0}")).collect();
        println!("{name:8}{shown}");
    }
    Ok(())
}

fn floats(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn infer_message() -> Bytes {
    let input = InferInputTensor {
        name: "features".into(),
        datatype: "FP32".into(),
        shape: vec![1, FEATURES as i64],
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: "direction".into(),
        id: "request-1".into(),
        inputs: vec![input],
        raw_input_contents: vec![floats(&[0.5; FEATURES])],
        ..Default::default()
    };
    request.encode_to_vec().into()
}

fn predict_message() -> Bytes {
    let request = PredictRequest {
        model: "direction".into(),
        request_id: "request-1".into(),
        features: vec![0.5; FEATURES],
        feature_digest: Bytes::from_static(&[7; 32]),
        entities: vec!["AAPL".into()],
        event_time_unix_ns: NOW_UNIX_NS,
        ..Default::default()
    };
    request.encode_to_vec().into()
}

/// All rules on: finite values, bounds of every feature, age, and three output rules.
fn version() -> VersionPlan {
    let names: Vec<String> = (0..FEATURES).map(|column| format!("feature_{column}")).collect();
    let rule = |name: &str, kind, low, high| OutputRule {
        name: name.into(),
        output: "probabilities".into(),
        kind,
        low,
        high,
        policy: Policy::Reject,
    };
    let mapping = |scale, offset| ColumnMapping {
        output: "probabilities".into(),
        column: Some(1),
        scale,
        offset,
    };
    VersionPlan {
        model: "direction".into(),
        version: "12".into(),
        digest: Bytes::from_static(&[9; 32]),
        model_sha256: String::new(),
        model_file: "model.onnx".into(),
        inputs: vec![spec("features", FEATURES)],
        outputs: vec![spec("probabilities", 2)],
        feature_digest: Bytes::from_static(&[7; 32]),
        signal: Some(mapping(2.0, -1.0)),
        confidence: Some(ColumnMapping {
            column: None,
            ..mapping(1.0, 0.0)
        }),
        input_rules: InputRules {
            finite: true,
            defaults: [].into(),
            bounds: names
                .iter()
                .map(|_| Bound {
                    low: -1.0,
                    high: 1.0,
                    policy: Some(Policy::Clip),
                })
                .collect(),
            event_time: EventTimeRule {
                required: false,
                max_age_s: Some(5.0),
                max_future_s: Some(1.0),
                policy: Policy::Reject,
            },
        },
        feature_names: names,
        output_rules: vec![
            rule("finite", OutputRuleKind::Finite, f64::NEG_INFINITY, f64::INFINITY),
            rule("range", OutputRuleKind::Range, 0.0, 1.0),
            rule("sum", OutputRuleKind::RowSum, 0.999, 1.001),
        ],
        limits: Limits {
            max_rows: 4096,
            default_deadline_us: 0,
            max_wait_us: 0,
            latency_budget_us: 1000,
        },
    }
}

fn spec(name: &str, width: usize) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: vec![-1, width as i64],
    }
}

fn texts() -> Result<Texts, Box<dyn std::error::Error>> {
    let entry = |name: &Name| Entry {
        name: name.label().into(),
        code: "INTERNAL".into(),
        reason: None,
        template: name.label().into(),
        executed: false,
    };
    Ok(Texts::new(Name::ALL.iter().map(entry))?)
}
