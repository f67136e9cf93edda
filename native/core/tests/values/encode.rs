//! Answers, read back with another implementation of protobuf.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use tickserve_core::call::{Call, Elements, Finding, FindingKind, Tensor};
use tickserve_core::encode::{Encoder, Framing, refused};
use tickserve_core::plan::{Datatype, Role, VersionPlan};
use tickserve_core::refusal::{Reason, Refusal};
use tickserve_core::service::Protocol;
use tickserve_core::wire::inference::infer_parameter::ParameterChoice;
use tickserve_core::wire::inference::model_infer_response::InferOutputTensor;
use tickserve_core::wire::inference::{InferParameter, ModelInferResponse, ModelStreamInferResponse};
use tickserve_core::wire::tickserve::v1::predict_stream_response::Result as Streamed;
use tickserve_core::wire::tickserve::v1::{PredictResponse, PredictStreamResponse};

use crate::support::{call, spec, tensor, texts, version};

const MAX_BYTES: usize = 4 << 20;

fn encode(
    version: VersionPlan,
    protocol: Protocol,
    call: &mut Call,
    outputs: &[Tensor],
) -> Result<Bytes, Refusal> {
    let encoder = Encoder::new(Arc::new(version), Role::Canary, 7, 0.5);
    encoder.answer(
        Framing {
            protocol,
            sequence: 300,
            max_bytes: MAX_BYTES,
        },
        call,
        outputs,
        1234,
        &texts(),
    )
}

fn outputs(rows: i64, p: &[f32], totals: &[i64]) -> Vec<Tensor> {
    let data = totals.iter().flat_map(|total| total.to_le_bytes()).collect();
    vec![
        tensor(&[rows, 2], p),
        Tensor {
            datatype: Datatype::Int64,
            shape: vec![rows],
            elements: Elements::Numbers(data),
        },
    ]
}

/// The answer as the messages of the protocol say it, made anew each time.
fn direct(call: &Call, outputs: &[Tensor]) -> ModelInferResponse {
    let version = version();
    let text = |text: &str| InferParameter {
        parameter_choice: Some(ParameterChoice::StringParam(text.into())),
    };
    let number = |number| InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(number)),
    };
    let chosen = call
        .outputs
        .clone()
        .unwrap_or_else(|| (0..outputs.len()).collect());
    let raw = |index: &usize| match &outputs[*index].elements {
        Elements::Numbers(data) => data.clone(),
        Elements::Strings(_) => Bytes::new(),
    };
    let output = |index: &usize| InferOutputTensor {
        name: version.outputs[*index].name.clone(),
        datatype: version.outputs[*index].datatype.label().into(),
        shape: outputs[*index].shape.clone(),
        ..Default::default()
    };
    ModelInferResponse {
        model_name: "m".into(),
        model_version: "3".into(),
        id: call.request_id.clone(),
        parameters: HashMap::from([
            ("tickserve_digest".into(), text(&"ab".repeat(32))),
            ("tickserve_role".into(), text("canary")),
            ("tickserve_plan_generation".into(), number(7)),
        ]),
        outputs: chosen.iter().map(output).collect(),
        raw_output_contents: chosen.iter().map(raw).collect(),
    }
}

proptest! {
    #[test]
    fn what_is_encoded_once_is_what_encoding_anew_gives(
        totals in proptest::collection::vec(any::<i64>(), 0..40),
        id in "\\PC{0,20}",
        chosen in proptest::option::of(prop_oneof![Just(vec![0]), Just(vec![1, 0]), Just(vec![1])]),
    ) {
        let outputs = outputs(totals.len() as i64, &vec![0.5; 2 * totals.len()], &totals);
        let mut call = call(Vec::new(), totals.len() as u64);
        (call.request_id, call.outputs) = (id, chosen);
        let answer = encode(version(), Protocol::Infer, &mut call, &outputs).unwrap();
        let read = ModelInferResponse::decode(answer.clone()).unwrap();
        prop_assert_eq!(&read, &direct(&call, &outputs));
        prop_assert_eq!(read.encoded_len(), answer.len());
        let streamed = encode(version(), Protocol::InferStream, &mut call, &outputs).unwrap();
        let streamed = ModelStreamInferResponse::decode(streamed).unwrap();
        prop_assert_eq!((streamed.error_message.as_str(), streamed.infer_response), ("", Some(read)));
    }
}

#[test]
fn strings_leave_with_their_lengths() {
    let version = VersionPlan {
        outputs: vec![spec("t", Datatype::Bytes, &[2])],
        ..version()
    };
    let elements = Elements::Strings(vec!["a".into(), "\u{e9}".into()]);
    let output = Tensor {
        datatype: Datatype::Bytes,
        shape: vec![2],
        elements,
    };
    let answer = encode(version, Protocol::Infer, &mut call(Vec::new(), 1), &[output]).unwrap();
    let read = ModelInferResponse::decode(answer).unwrap();
    assert_eq!(read.raw_output_contents[0], "\x01\0\0\0a\x02\0\0\0\u{e9}");
}

#[test]
fn findings_are_in_both_protocols() {
    let mut call = call(Vec::new(), 1);
    let found = Finding {
        kind: FindingKind::Clipped,
        row: 0,
        column: 2,
        rule: "bounds:c".into(),
    };
    (call.findings.kept, call.findings.left_out) = (vec![found], 3);
    let outputs = outputs(1, &[0.25, 0.75], &[1]);
    let infer = encode(version(), Protocol::Infer, &mut call, &outputs).unwrap();
    let mut parameters = ModelInferResponse::decode(infer).unwrap().parameters;
    let mut parameter = |name: &str| parameters.remove(name).and_then(|value| value.parameter_choice);
    let json = r#"[{"kind": "CLIPPED", "row": 0, "column": 2, "rule": "bounds:c"}]"#;
    assert_eq!(
        parameter("tickserve_findings"),
        Some(ParameterChoice::StringParam(json.into()))
    );
    assert_eq!(
        parameter("tickserve_findings_left_out"),
        Some(ParameterChoice::Int64Param(3))
    );
    let predict = encode(version(), Protocol::Predict, &mut call, &outputs).unwrap();
    let findings = PredictResponse::decode(predict).unwrap().findings;
    assert_eq!(
        (findings[0].kind, findings[0].column, findings[0].rule.as_str()),
        (1, 2, "bounds:c")
    );
}

#[test]
fn a_prediction_has_every_output_row_by_row_and_what_is_mapped() {
    let outputs = outputs(2, &[0.25, 0.75, 1.0, 0.0], &[3, 1 << 40]);
    let mut call = call(Vec::new(), 2);
    let answer = encode(version(), Protocol::PredictStream, &mut call, &outputs).unwrap();
    let streamed = PredictStreamResponse::decode(answer).unwrap();
    let Some(Streamed::Answer(answer)) = streamed.result else {
        panic!("no answer")
    };
    assert_eq!(streamed.sequence, 300);
    assert_eq!(answer.values, [0.25, 0.75, 3.0, 1.0, 0.0, (1_u64 << 40) as f32]);
    assert_eq!(
        (answer.signal, answer.confidence),
        (vec![0.5, -1.0], vec![0.75, 1.0])
    );
    assert_eq!((answer.rows, answer.role, answer.plan_generation), (2, 2, 7));
    assert_eq!((answer.position_scale, answer.server_duration_ns), (0.5, 1234));
    assert_eq!(
        (
            answer.model.as_str(),
            answer.version.as_str(),
            answer.digest.len()
        ),
        ("m", "3", 32)
    );
}

#[test]
fn a_finite_figure_never_leaves_as_an_infinity() {
    let wide = VersionPlan {
        outputs: vec![
            spec("p", Datatype::Fp64, &[-1, 2]),
            spec("total", Datatype::Int64, &[-1]),
        ],
        ..version()
    };
    let doubled = |p: [f64; 2]| {
        let mut outputs = outputs(1, &[0.0; 2], &[0]);
        let data: Vec<u8> = p.iter().flat_map(|value| value.to_le_bytes()).collect();
        (outputs[0].datatype, outputs[0].elements) = (Datatype::Fp64, Elements::Numbers(data.into()));
        let mut call = call(Vec::new(), 1);
        (
            encode(wide.clone(), Protocol::Predict, &mut call, &outputs),
            call.findings.violations,
        )
    };
    let (refused, violations) = doubled([1e39, 0.0]);
    assert_eq!(
        refused.unwrap_err().message,
        "OUTPUT_RULE rule=float32:p version=3 model=m"
    );
    assert_eq!(
        (violations[0].rule.as_str(), violations[0].times),
        ("float32:p", 1)
    );
    let (refused, _) = doubled([0.0, 3e38]);
    assert_eq!(
        refused.unwrap_err().message,
        "OUTPUT_RULE rule=float32:signal version=3 model=m"
    );
    for p in [[f64::INFINITY, f64::NAN], [f64::NAN, f64::INFINITY]] {
        let read = PredictResponse::decode(doubled(p).0.unwrap()).unwrap();
        assert_eq!(
            p.map(|value| value as f32).map(f32::to_bits),
            [0, 1].map(|place| read.values[place].to_bits())
        );
        assert!(read.confidence[0].is_nan());
    }
}

#[test]
fn an_answer_over_the_bound_is_refused_with_its_size() {
    let encoder = Encoder::new(Arc::new(version()), Role::Stable, 7, 1.0);
    let framing = Framing {
        protocol: Protocol::PredictStream,
        sequence: 1,
        max_bytes: 50,
    };
    let refused = encoder.answer(
        framing,
        &mut call(Vec::new(), 1),
        &outputs(1, &[0.0; 2], &[0]),
        0,
        &texts(),
    );
    let told = refused.unwrap_err().message;
    assert!(
        told.starts_with("ANSWER_TOO_LONG size=") && told.ends_with("bound=50"),
        "{told}"
    );
}

#[test]
fn refusals_of_streams_are_inside_the_answer() {
    let refusal = Refusal {
        code: 3,
        reason: Some(Reason::InvalidInput),
        message: "no".into(),
        field: "x".into(),
        executed: true,
        request_id: "r".into(),
    };
    assert_eq!(refused(Protocol::Infer, 0, &refusal), None);
    let infer =
        ModelStreamInferResponse::decode(refused(Protocol::InferStream, 0, &refusal).unwrap()).unwrap();
    assert_eq!(
        (
            infer.error_message.as_str(),
            infer.infer_response.unwrap().id.as_str()
        ),
        ("no", "r")
    );
    let predict = refused(Protocol::PredictStream, 0, &refusal).unwrap();
    assert_eq!(predict[..2], [8, 0]);
    let Some(Streamed::Error(error)) = PredictStreamResponse::decode(predict).unwrap().result else {
        panic!("no error")
    };
    assert_eq!(
        (error.code, error.reason, error.executed),
        (3, Reason::InvalidInput as i32, true)
    );
    assert_eq!(
        (
            error.message.as_str(),
            error.field.as_str(),
            error.request_id.as_str()
        ),
        ("no", "x", "r")
    );
}
