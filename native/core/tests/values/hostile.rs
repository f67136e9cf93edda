//! Any bytes at all: an answer or a refusal, and never a panic.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use tickserve_core::decode::{Schema, parse};
use tickserve_core::plan::{Datatype, Policy, Role, Segment, VersionPlan};
use tickserve_core::refusal::Refusal;
use tickserve_core::routing::{place, segment};
use tickserve_core::rules::InputChecks;
use tickserve_core::service::Protocol;
use tickserve_core::texts::Texts;
use tickserve_core::wire::inference::InferTensorContents;
use tickserve_core::wire::tickserve::v1::PredictRequest;

use crate::support::{NOW_UNIX_NS, bound, floats, infer, infer_input, spec, texts, version};

fn versions() -> Vec<VersionPlan> {
    let mut bounded = version();
    bounded.input_rules.bounds = vec![bound(-1.0, 1.0, Policy::Clip); 3];
    let mut mixed = version();
    mixed.inputs = vec![
        spec("x", Datatype::Bytes, &[-1, -1]),
        spec("y", Datatype::Int8, &[]),
        spec("", Datatype::Bool, &[2]),
    ];
    mixed.feature_names.clear();
    vec![bounded, mixed]
}

fn messages() -> Vec<Vec<u8>> {
    let mut typed = infer_input("FP32", &[1, 3]);
    typed.contents = Some(InferTensorContents {
        fp32_contents: vec![0.5; 3],
        ..Default::default()
    });
    let predict = PredictRequest {
        model: "m".into(),
        features: vec![0.5; 3],
        rows: 1,
        ..Default::default()
    };
    vec![
        infer(infer_input("FP32", &[2, 3]), &[floats(&[9.0; 6])]).encode_to_vec(),
        infer(typed, &[]).encode_to_vec(),
        infer(
            infer_input("BYTES", &[1, 1]),
            &[Bytes::from_static(b"\x01\0\0\0a")],
        )
        .encode_to_vec(),
        predict.encode_to_vec(),
    ]
}

/// What a version is compiled to, once for all cases.
static SUBJECTS: LazyLock<Vec<(Schema, InputChecks)>> = LazyLock::new(|| {
    let compiled = |version| {
        let version = Arc::new(version);
        (Schema::new(Arc::clone(&version)), InputChecks::new(version))
    };
    versions().into_iter().map(compiled).collect()
});
static TEXTS: LazyLock<Texts> = LazyLock::new(texts);

fn go(subject: usize, protocol: Protocol, message: Vec<u8>) -> Result<(), Refusal> {
    let ((schema, checks), texts) = (&SUBJECTS[subject], &*TEXTS);
    let mut parsed = parse(protocol, message.into(), texts)?;
    let target = parsed.target("drawn", texts)?;
    let hash = place(b"salt", target.key.as_bytes()).hash;
    assert!(segment(&halves(), hash).is_some(), "every hash has a version");
    let shape = parsed.shape(schema, texts)?;
    let mut call = parsed.read(schema, &shape, "drawn", texts)?;
    checks.check(&mut call, NOW_UNIX_NS, texts)
}

fn halves() -> [Segment; 2] {
    [u64::MAX / 2, u64::MAX].map(|upper_bound| Segment {
        upper_bound,
        version: "1".into(),
        role: Role::Stable,
    })
}

/// How many cases of each test; `make studies` asks for millions.
fn config() -> ProptestConfig {
    let asked = std::env::var("TICKSERVE_CASES").ok();
    ProptestConfig::with_cases(asked.and_then(|cases| cases.parse().ok()).unwrap_or(2000))
}

fn protocols() -> impl Strategy<Value = Protocol> {
    proptest::sample::select(vec![
        Protocol::Infer,
        Protocol::Predict,
        Protocol::InferStream,
        Protocol::PredictStream,
    ])
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(
        protocol in protocols(),
        subject in 0..SUBJECTS.len(),
        message in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = go(subject, protocol, message);
    }

    #[test]
    fn edited_messages_are_read_or_refused(
        protocol in protocols(),
        subject in 0..SUBJECTS.len(),
        message in proptest::sample::select(messages()),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let mut message = message;
        for (place, byte, edit) in edits {
            let place = place.index(message.len() + 1);
            match edit {
                0 => message.insert(place, byte),
                1 => message.truncate(place),
                2 if place < message.len() => _ = message.remove(place),
                _ if place < message.len() => message[place] = byte,
                _ => message.extend_from_within(..),
            }
        }
        let _ = go(subject, protocol, message);
    }
}
