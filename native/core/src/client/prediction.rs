//! The messages of a prediction: a request written straight from the caller's numbers, an answer read and checked.

use prost::Message;

pub use crate::wire::tickserve::v1::PredictResponse;

use crate::encode::Writer;

/// What a request holds besides its numbers. What is empty or zero is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// Model name.
    pub model: &'a str,
    /// A pinned version.
    pub version: &'a str,
    /// Identifies it.
    pub request_id: &'a str,
    /// Decides the version in a split.
    pub routing_key: &'a str,
    /// What each row is about.
    pub entities: &'a [String],
    /// When the features were true, in nanoseconds since 1970 UTC.
    pub event_time_unix_ns: i64,
    /// SHA-256 over the names of the features.
    pub feature_digest: &'a [u8],
    /// How many rows.
    pub rows: u32,
    /// Time steps a row.
    pub steps: u32,
}

/// The bytes of a PredictRequest; `features` are float32, little-endian and row-major.
pub fn encode(request: &Request<'_>, features: &[u8]) -> Vec<u8> {
    let mut message = Writer::with_capacity(256 + features.len());
    message.text(1, request.model);
    message.text(2, request.version);
    message.text(3, request.request_id);
    message.text(4, request.routing_key);
    message.bytes(5, features);
    message.bytes(6, request.feature_digest);
    message.integer(8, u64::from(request.rows));
    message.integer(9, u64::from(request.steps));
    for entity in request.entities {
        message.bytes_always(10, entity.as_bytes());
    }
    if request.event_time_unix_ns != 0 {
        // A fixed field of 64 bits.
        message.varint(11 << 3 | 1);
        message
            .0
            .extend_from_slice(&request.event_time_unix_ns.to_le_bytes());
    }
    message.0
}

/// An answer, where it is one and does not contradict itself.
pub fn decode(message: &[u8]) -> Option<PredictResponse> {
    let answer = PredictResponse::decode(message).ok()?;
    let rows = answer.rows as usize;
    let fits = |count: usize| count == 0 || count == rows;
    let is_whole = rows != 0 && answer.values.len() % rows == 0;
    (is_whole && fits(answer.signal.len()) && fits(answer.confidence.len())).then_some(answer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::tickserve::v1::PredictRequest;

    proptest! {
        #[test]
        fn what_is_written_is_what_protobuf_reads(
            texts in prop::array::uniform4(".{0,20}"),
            entities in prop::collection::vec(".{0,8}", 0..4),
            numbers in prop::collection::vec(any::<f32>(), 0..40),
            digest in prop::collection::vec(any::<u8>(), 0..33),
            event_time_unix_ns: i64,
            rows: u32,
            steps: u32,
        ) {
            let [model, version, request_id, routing_key] = &texts;
            let request = Request { model, version, request_id, routing_key, entities: &entities, event_time_unix_ns,
                feature_digest: &digest, rows, steps };
            let features: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let read = PredictRequest::decode(&encode(&request, &features)[..]).unwrap();
            prop_assert_eq!([&read.model, &read.version, &read.request_id, &read.routing_key], [model, version, request_id, routing_key]);
            prop_assert_eq!(&read.entities, &entities);
            prop_assert_eq!(read.features.iter().map(|number| number.to_bits()).collect::<Vec<_>>(), numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>());
            prop_assert_eq!(&read.feature_digest[..], &digest[..]);
            prop_assert_eq!((read.event_time_unix_ns, read.rows, read.steps), (event_time_unix_ns, rows, steps));
        }

        #[test]
        fn nothing_that_comes_panics(message in prop::collection::vec(any::<u8>(), 0..64)) {
            decode(&message);
        }
    }
}
