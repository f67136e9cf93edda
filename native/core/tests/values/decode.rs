//! Requests: what they give, and for what they are refused.

use bytes::Bytes;
use prost::Message;
use tickserve_core::call::{Elements, FindingKind};
use tickserve_core::decode::parse;
use tickserve_core::plan::{Datatype, VersionPlan};
use tickserve_core::service::Protocol;
use tickserve_core::wire::inference::infer_parameter::ParameterChoice;
use tickserve_core::wire::inference::model_infer_request::InferRequestedOutputTensor;
use tickserve_core::wire::inference::{InferParameter, InferTensorContents, ModelInferRequest};
use tickserve_core::wire::tickserve::v1::predict_stream_request::Request;
use tickserve_core::wire::tickserve::v1::{NamedValue, PredictRequest, PredictStreamRequest};

use crate::support::{floats, infer, infer_input, read, read_floats, read_infer, spec, texts, version};

fn of(datatype: Datatype) -> VersionPlan {
    VersionPlan {
        inputs: vec![spec("x", datatype, &[-1])],
        feature_names: Vec::new(),
        ..version()
    }
}

fn typed(datatype: &str, count: i64, contents: InferTensorContents) -> ModelInferRequest {
    let mut input = infer_input(datatype, &[count]);
    input.contents = Some(contents);
    infer(input, &[])
}

fn numbers(version: VersionPlan, request: &ModelInferRequest) -> Result<Vec<u8>, String> {
    let call = read_infer(version, request)?;
    match &call.inputs[0].elements {
        Elements::Numbers(data) => Ok(data.to_vec()),
        Elements::Strings(strings) => Ok(strings.join(",").into_bytes()),
    }
}

#[test]
fn raw_contents_are_a_part_of_the_message() {
    let request = infer(infer_input("FP32", &[2, 3]), &[floats(&[1.0; 6])]);
    let message = Bytes::from(request.encode_to_vec());
    let (shape, call) = read(version(), Protocol::Infer, message.clone()).unwrap();
    assert_eq!((shape.rows, shape.values), (2, 6));
    let Elements::Numbers(data) = &call.inputs[0].elements else {
        panic!("no numbers")
    };
    assert!(message.as_ptr_range().contains(&data.as_ptr()));
    assert_eq!(read_floats(&call.inputs[0]), [1.0; 6]);
}

#[test]
fn typed_contents_of_every_datatype_are_read() {
    let contents = InferTensorContents::default;
    let cases = [
        (
            Datatype::Bool,
            InferTensorContents {
                bool_contents: vec![true, false],
                ..contents()
            },
            vec![1, 0],
        ),
        (
            Datatype::Int8,
            InferTensorContents {
                int_contents: vec![-128, 127],
                ..contents()
            },
            vec![0x80, 0x7F],
        ),
        (
            Datatype::Int16,
            InferTensorContents {
                int_contents: vec![-2, 1],
                ..contents()
            },
            vec![0xFE, 0xFF, 1, 0],
        ),
        (
            Datatype::Int32,
            InferTensorContents {
                int_contents: vec![-1, 1],
                ..contents()
            },
            vec![255, 255, 255, 255, 1, 0, 0, 0],
        ),
        (
            Datatype::Int64,
            InferTensorContents {
                int64_contents: vec![-1, i64::MIN],
                ..contents()
            },
            [(-1_i64).to_le_bytes(), i64::MIN.to_le_bytes()].concat(),
        ),
        (
            Datatype::Uint8,
            InferTensorContents {
                uint_contents: vec![255, 0],
                ..contents()
            },
            vec![255, 0],
        ),
        (
            Datatype::Uint16,
            InferTensorContents {
                uint_contents: vec![65535, 0],
                ..contents()
            },
            vec![255, 255, 0, 0],
        ),
        (
            Datatype::Uint32,
            InferTensorContents {
                uint_contents: vec![u32::MAX, 0],
                ..contents()
            },
            vec![255, 255, 255, 255, 0, 0, 0, 0],
        ),
        (
            Datatype::Uint64,
            InferTensorContents {
                uint64_contents: vec![u64::MAX, 0],
                ..contents()
            },
            [u64::MAX.to_le_bytes(), 0_u64.to_le_bytes()].concat(),
        ),
        (
            Datatype::Fp32,
            InferTensorContents {
                fp32_contents: vec![0.5, -1.0],
                ..contents()
            },
            floats(&[0.5, -1.0]).to_vec(),
        ),
        (
            Datatype::Fp64,
            InferTensorContents {
                fp64_contents: vec![0.1, 0.0],
                ..contents()
            },
            [0.1_f64.to_le_bytes(), [0; 8]].concat(),
        ),
        (
            Datatype::Bytes,
            InferTensorContents {
                bytes_contents: vec!["a".into(), "\u{e9}".into()],
                ..contents()
            },
            "a,\u{e9}".into(),
        ),
    ];
    for (datatype, contents, expected) in cases {
        let label = datatype.label();
        assert_eq!(
            numbers(of(datatype), &typed(label, 2, contents.clone())),
            Ok(expected),
            "{label}"
        );
        let refused = numbers(of(datatype), &typed(label, 3, contents)).unwrap_err();
        assert!(refused.starts_with("TYPED_LENGTH tensor=x got=2 "), "{refused}");
    }
    let refused = numbers(of(Datatype::Fp16), &typed("FP16", 1, contents())).unwrap_err();
    assert_eq!(refused, "ONLY_RAW tensor=x datatype=FP16");
    let wide = InferTensorContents {
        int_contents: vec![128],
        ..contents()
    };
    assert_eq!(
        numbers(of(Datatype::Int8), &typed("INT8", 1, wide)).unwrap_err(),
        "TYPED_RANGE tensor=x datatype=INT8"
    );
}

#[test]
fn packed_and_unpacked_elements_add_up_in_order() {
    // The same input twice in one message: contents in three parts, the second unpacked.
    let contents = [&b"\x32\x04"[..], &floats(&[1.0]), b"\x35", &floats(&[2.0])].concat();
    let more = [&b"\x32\x04"[..], &floats(&[3.0])].concat();
    let nested = |key: u8, part: &[u8]| [&[key, part.len() as u8], part].concat();
    let input = [
        &b"\x0a\x01x\x12\x04FP32\x18\x03"[..],
        &nested(0x2A, &contents),
        &nested(0x2A, &more),
    ]
    .concat();
    let message = [&b"\x0a\x01m"[..], &nested(0x2A, &input)].concat();
    let (_, call) = read(of(Datatype::Fp32), Protocol::Infer, message.into()).unwrap();
    assert_eq!(read_floats(&call.inputs[0]), [1.0, 2.0, 3.0]);
}

#[test]
fn strings_are_cut_by_their_lengths_and_must_be_text() {
    let request = |raw: &'static [u8]| infer(infer_input("BYTES", &[2]), &[Bytes::from_static(raw)]);
    let read = |raw| numbers(of(Datatype::Bytes), &request(raw));
    assert_eq!(read(b"\x01\0\0\0a\0\0\0\0"), Ok(b"a,".to_vec()));
    assert_eq!(
        read(b"\x01\0\0\0a\x02\0\0\0b").unwrap_err(),
        "RAW_BYTES tensor=x element=1 expected=2"
    );
    assert_eq!(
        read(b"\x01\0\0\0a\x02\0").unwrap_err(),
        "RAW_BYTES tensor=x element=1 expected=2"
    );
    assert!(
        read(b"\0\0\0\0")
            .unwrap_err()
            .starts_with("TYPED_LENGTH tensor=x got=1 field=raw_input_contents")
    );
    assert_eq!(
        read(b"\x01\0\0\0a\x01\0\0\0\xff").unwrap_err(),
        "NOT_TEXT tensor=x"
    );
}

#[test]
fn the_first_of_several_mistakes_is_the_one_told() {
    let good = || infer(infer_input("FP32", &[1, 3]), &[floats(&[0.0; 3])]);
    let mut wrong = good();
    wrong.inputs[0].shape = vec![9, 3];
    wrong.inputs[0].datatype = "FP64".into();
    wrong.id = "i".repeat(65);
    wrong.outputs = vec![InferRequestedOutputTensor {
        name: "odd".into(),
        ..Default::default()
    }];
    let told = |request: &ModelInferRequest| read_infer(version(), request).unwrap_err();
    assert_eq!(told(&wrong), "TOO_LONG name=id size=65 bound=64");
    wrong.id.clear();
    assert_eq!(told(&wrong), "DATATYPE tensor=x got=FP64 expected=FP32");
    wrong.inputs[0].datatype = "FP32".into();
    assert_eq!(told(&wrong), "TOO_MANY_ROWS got=9 model=m bound=8");
    wrong.inputs[0].shape = vec![8, 3];
    assert_eq!(
        told(&wrong),
        "RAW_LENGTH tensor=x got=12 expected=96 datatype=FP32 shape=[8, 3]"
    );
    wrong.inputs[0].shape = vec![1, 3];
    assert_eq!(told(&wrong), "OUTPUT_UNKNOWN tensor=odd expected=p, total");
    wrong.outputs[0].name = "total".into();
    assert_eq!(read_infer(version(), &wrong).unwrap().outputs, Some(vec![1]));
}

#[test]
fn parameters_are_read_in_the_order_of_their_names() {
    let with = |parameters: &[(&str, ParameterChoice)]| {
        let mut request = infer(infer_input("FP32", &[1, 3]), &[floats(&[0.0; 3])]);
        for (name, choice) in parameters {
            let value = InferParameter {
                parameter_choice: Some(choice.clone()),
            };
            request.parameters.insert((*name).to_owned(), value);
        }
        read_infer(version(), &request)
    };
    let text = |text: &str| ParameterChoice::StringParam(text.into());
    let call = with(&[
        ("timeout", ParameterChoice::Int64Param(5)),
        (
            "tickserve_event_time_unix_ns",
            ParameterChoice::Uint64Param(u64::MAX),
        ),
        ("tickserve_feature_digest", text(&"CD ".repeat(32))),
        (
            "triton_enable_empty_final_response",
            ParameterChoice::BoolParam(true),
        ),
    ])
    .unwrap();
    assert_eq!((call.timeout_us, call.event_time_unix_ns), (5, u64::MAX.into()));
    let wrong = [
        (
            ("timeout", ParameterChoice::Int64Param(-1)),
            "NOT_MICROSECONDS name=timeout",
        ),
        (
            ("sequence_id", ParameterChoice::Int64Param(1)),
            "SEQUENCES name=sequence_id",
        ),
        (
            ("tickserve_routing_key", text(&"k".repeat(65))),
            "TOO_LONG name=tickserve_routing_key size=65 bound=64",
        ),
        (("tickserve_entities", text("a,b")), "ENTITIES got=2 rows=1"),
        (("tickserve_feature_digest", text("ab")), "DIGEST_LENGTH got=1"),
        (
            ("tickserve_feature_digest", text("zz")),
            "NOT_HEXADECIMAL name=tickserve_feature_digest",
        ),
    ];
    for (parameter, told) in wrong {
        assert_eq!(with(&[parameter]).unwrap_err(), told);
    }
    let both = [("shared_memory_b", text("")), ("classification", text(""))];
    assert_eq!(with(&both).unwrap_err(), "CLASSIFICATION name=classification");
    let many: Vec<_> = (0..257).map(|number| format!("p{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), text(""))).collect();
    assert_eq!(with(&many).unwrap_err(), "TOO_MANY_PARAMETERS got=257 bound=256");
}

fn predict(request: PredictRequest) -> Result<(Vec<f32>, tickserve_core::call::Call), String> {
    let request = PredictRequest {
        model: "m".into(),
        ..request
    };
    let read = read(version(), Protocol::Predict, request.encode_to_vec().into());
    read.map(|(_, call)| (read_floats(&call.inputs[0]), call))
        .map_err(|refusal| refusal.message)
}

fn named(values: &[(&str, f32)]) -> PredictRequest {
    let named = values.iter().map(|(name, value)| NamedValue {
        name: (*name).into(),
        value: *value,
    });
    PredictRequest {
        named: named.collect(),
        ..Default::default()
    }
}

#[test]
fn features_come_in_order_or_by_name_with_defaults() {
    let (values, call) = predict(PredictRequest {
        features: vec![1.0; 6],
        rows: 2,
        ..Default::default()
    })
    .unwrap();
    assert_eq!((values, call.request_id.as_str()), (vec![1.0; 6], "drawn"));
    let (values, call) = predict(named(&[("b", 2.0), ("a", 1.0)])).unwrap();
    assert_eq!(values, [1.0, 2.0, 0.5]);
    let finding = &call.findings.kept[0];
    assert_eq!(
        (finding.kind, finding.column, finding.rule.as_str()),
        (FindingKind::Defaulted, 2, "default:c")
    );
    let wrong = [
        (named(&[("b", 2.0)]), "FEATURE_MISSING feature=a"),
        (named(&[("b", 2.0), ("b", 2.0)]), "FEATURE_TWICE feature=b"),
        (named(&[("d", 2.0)]), "FEATURE_UNKNOWN feature=d expected=a, b, c"),
        (
            PredictRequest {
                rows: 2,
                ..named(&[("a", 1.0)])
            },
            "NAMED_ROWS rows=2 steps=1",
        ),
        (
            PredictRequest {
                features: vec![0.0; 3],
                ..named(&[("a", 1.0)])
            },
            "FEATURES_AND_NAMED",
        ),
        (
            PredictRequest {
                steps: 2,
                ..named(&[])
            },
            "STEPS got=2 model=m expected=1",
        ),
        (
            named(&[]),
            "FEATURE_COUNT got=0 expected=3 rows=1 steps=1 width=3",
        ),
        (
            PredictRequest {
                rows: 9,
                ..named(&[])
            },
            "TOO_MANY_ROWS got=9 model=m bound=8",
        ),
        (
            PredictRequest {
                feature_digest: vec![1; 32].into(),
                ..named(&[])
            },
            "FEATURES_CHANGED version=3 model=m",
        ),
    ];
    for (request, told) in wrong {
        assert_eq!(predict(request).unwrap_err(), told);
    }
}

#[test]
fn a_streamed_message_has_a_sequence_and_may_lack_a_request() {
    let parsed = |message: PredictStreamRequest| {
        parse(Protocol::PredictStream, message.encode_to_vec().into(), &texts()).unwrap()
    };
    let empty = parsed(PredictStreamRequest {
        sequence: 7,
        request: None,
    });
    assert_eq!(
        (
            empty.sequence(),
            empty.require_request(&texts()).unwrap_err().message.as_str()
        ),
        (7, "NO_REQUEST")
    );
    let request = PredictRequest {
        model: "m".into(),
        request_id: "r".into(),
        ..Default::default()
    };
    let mut full = parsed(PredictStreamRequest {
        sequence: 8,
        request: Some(Request::Predict(request)),
    });
    assert!(full.require_request(&texts()).is_ok());
    assert_eq!(full.target("drawn", &texts()).unwrap().key, "r");
    let refused = parse(Protocol::InferStream, Bytes::from_static(b"\x0a\xff"), &texts()).unwrap_err();
    assert_eq!(refused.message, "MALFORMED message=ModelInferRequest");
}
