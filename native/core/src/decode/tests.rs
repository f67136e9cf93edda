//! What a request keeps of its message while it waits, against what a client can put into one.

use std::sync::Arc;

use prost::Message;

use super::*;
use crate::engine::tests::support::*;

const MANY: usize = 300_000;

/// So many empty fields of one number.
fn many(field: u8) -> Vec<u8> {
    [field << 3 | 2, 0].repeat(MANY)
}

fn parsed(protocol: Protocol, message: Vec<u8>, schema: &Schema, texts: &Texts) -> (Parsed, Shape) {
    let mut parsed = parse(protocol, message.into(), texts).unwrap();
    parsed.target("drawn", texts).unwrap();
    let shape = parsed.shape(schema, texts).unwrap();
    (parsed, shape)
}

fn echo() -> Schema {
    let mut version = version_plan("echo", "1", &model_file("echo"));
    version.feature_names = ["a", "b", "c"].map(str::to_owned).to_vec();
    Schema::new(Arc::new(version))
}

#[test]
fn names_beyond_those_that_there_are_are_not_kept_and_refused_alike() {
    let (schema, texts) = (echo(), texts());
    let row = floats(&[1, 3], &[1.0, 2.0, 3.0]);
    let mut outputs = infer_request("echo", "features", &row).encode_to_vec();
    outputs.extend(many(6));
    let named = [b"\x0a\x04echo".to_vec(), many(7)].concat();
    for (protocol, message) in [(Protocol::Infer, outputs), (Protocol::Predict, named)] {
        let (mut whole, shape) = parsed(protocol, message.clone(), &schema, &texts);
        let expected = whole.read(&schema, &shape, "drawn", &texts).unwrap_err();
        let (mut shed, shape) = parsed(protocol, message, &schema, &texts);
        shed.shed(&schema);
        let kept = match &shed.request {
            Request::Infer(request, _) => request.outputs.capacity(),
            Request::Predict(request) => request.named.capacity(),
            Request::Nothing => MANY,
        };
        assert!(kept <= 4, "{kept}");
        assert_eq!(shed.read(&schema, &shape, "drawn", &texts).unwrap_err(), expected);
    }
}

#[test]
fn empty_parts_of_values_are_not_kept() {
    let (schema, texts) = (echo(), texts());
    let request = [b"\x0a\x04echo\x2a\x0c".to_vec(), vec![0; 12], many(5)].concat();
    let (mut parsed, shape) = parsed(Protocol::Predict, request, &schema, &texts);
    let Request::Predict(request) = &parsed.request else {
        panic!("{parsed:?}")
    };
    assert!(
        request.features.capacity() <= 4,
        "{}",
        request.features.capacity()
    );
    parsed.read(&schema, &shape, "drawn", &texts).unwrap();
    let mut contents = b"\x0a\x04echo\x2a".to_vec();
    let size = 2 * MANY;
    contents.extend([
        size as u8 & 127 | 128,
        (size >> 7) as u8 & 127 | 128,
        (size >> 14) as u8,
    ]);
    contents.extend(many(5));
    let parsed = parse(Protocol::Infer, contents.into(), &texts).unwrap();
    let Request::Infer(request, _) = &parsed.request else {
        panic!("{parsed:?}")
    };
    let kept = request.inputs[0]
        .contents
        .as_ref()
        .map(|contents| contents.capacity());
    assert_eq!(kept, Some(0));
}

#[test]
fn more_tensors_than_any_model_has_are_counted_and_not_kept() {
    let (schema, texts) = (echo(), texts());
    let message = [b"\x0a\x04echo".to_vec(), many(5), many(6), many(7)].concat();
    let mut parsed = parse(Protocol::Infer, message.into(), &texts).unwrap();
    parsed.target("drawn", &texts).unwrap();
    let Request::Infer(request, _) = &parsed.request else {
        panic!("{parsed:?}")
    };
    let kept = request.inputs.capacity() + request.outputs.capacity() + request.raw.capacity();
    assert!(kept <= MANY / 4, "{kept}");
    let refused = parsed.shape(&schema, &texts).unwrap_err();
    assert!(
        refused.message.starts_with("INPUT_UNKNOWN tensor="),
        "{}",
        refused.message
    );
    // One more raw contents than inputs.
    let message = [b"\x0a\x04echo".to_vec(), many(5), many(7), vec![7 << 3 | 2, 0]].concat();
    let mut parsed = parse(Protocol::Infer, message.into(), &texts).unwrap();
    parsed.target("drawn", &texts).unwrap();
    let refused = parsed.shape(&schema, &texts).unwrap_err();
    assert_eq!(
        refused.message,
        format!("RAW_COUNT got={} expected={MANY}", MANY + 1)
    );
}
