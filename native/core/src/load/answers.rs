//! What travels on the two kinds of streams: requests with a number, and which request an answer is for.

use bytes::{Buf, Bytes, BytesMut};

use super::outcome::Outcome;
use super::{Travel, framed};
use crate::decode::wire::{Fields, Value};

/// `ModelInferRequest.id`, delimited.
const ID_KEY: u8 = 3 << 3 | 2;
const SEQUENCE_KEY: u8 = 1 << 3;
/// `PredictStreamRequest.predict`, delimited.
const PREDICT_KEY: u8 = 2 << 3 | 2;

/// The names of `tickserve.v1.Reason`, by number.
const REASONS: [&str; 14] = [
    "",
    "OVERLOADED",
    "RATE_LIMITED",
    "DRAINING",
    "LOADING",
    "HALTED",
    "STALE_INPUT",
    "OUTPUT_RULE",
    "FEATURES_CHANGED",
    "PIN_REFUSED",
    "INVALID_INPUT",
    "NOT_FOUND",
    "DEADLINE",
    "INTERNAL",
];

/// The frame of one request, which has this number.
pub(super) fn numbered(travel: Travel, message: &[u8], number: u64) -> Bytes {
    let mut whole = Vec::with_capacity(message.len() + 32);
    if travel == Travel::PredictStream {
        whole.push(SEQUENCE_KEY);
        put_varint(&mut whole, number);
        whole.push(PREDICT_KEY);
        put_varint(&mut whole, message.len() as u64);
        whole.extend_from_slice(message);
    } else {
        let id = number.to_string();
        whole.extend_from_slice(message);
        whole.push(ID_KEY);
        put_varint(&mut whole, id.len() as u64);
        whole.extend_from_slice(id.as_bytes());
    }
    framed(&whole)
}

/// Takes a whole message out of what was read; None where there is none yet.
pub(super) fn take_message(read: &mut BytesMut) -> Option<Bytes> {
    let head = read.get(..5)?;
    let size = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if read.len() < 5 + size {
        return None;
    }
    read.advance(5);
    Some(read.split_to(size).freeze())
}

/// The number of the request that this answers, and what it says; None where it can be no answer.
pub(super) fn understand(travel: Travel, message: &[u8]) -> Option<(u64, Outcome)> {
    match travel {
        Travel::PredictStream => predicted(message),
        _ => inferred(message),
    }
}

/// `PredictStreamResponse`: sequence = 1, answer = 2, error = 3.
fn predicted(message: &[u8]) -> Option<(u64, Outcome)> {
    let mut fields = Fields::new(message).ok()?;
    let (mut sequence, mut outcome) = (0, None);
    while let Some(field) = fields.next().ok()? {
        match field {
            (1, Value::Varint(number)) => sequence = number,
            (2, Value::Delimited(_)) => outcome = Some(Outcome::Answered),
            (3, Value::Delimited(span)) => outcome = Some(refusal(fields.within(span))?),
            _ => (),
        }
    }
    Some((sequence, outcome?))
}

/// `tickserve.v1.Error`: code = 1, reason = 2.
fn refusal(mut fields: Fields<'_>) -> Option<Outcome> {
    let (mut code, mut reason) = (0, 0);
    while let Some(field) = fields.next().ok()? {
        match field {
            (1, Value::Varint(number)) => code = number as u32,
            (2, Value::Varint(number)) => reason = number as usize,
            _ => (),
        }
    }
    Some(Outcome::refused(
        code,
        REASONS.get(reason).copied().unwrap_or("?"),
    ))
}

/// `ModelStreamInferResponse`: error_message = 1, infer_response = 2 with id = 3.
fn inferred(message: &[u8]) -> Option<(u64, Outcome)> {
    let mut fields = Fields::new(message).ok()?;
    let (mut number, mut outcome) = (None, Outcome::Answered);
    while let Some(field) = fields.next().ok()? {
        match field {
            (1, Value::Delimited(span)) if !span.is_empty() => {
                outcome = Outcome::refused_in_stream(&String::from_utf8_lossy(fields.bytes(span)));
            }
            (2, Value::Delimited(span)) => {
                let mut within = fields.within(span);
                while let Some(field) = within.next().ok()? {
                    if let (3, Value::Delimited(span)) = field {
                        number = std::str::from_utf8(within.bytes(span)).ok()?.parse().ok();
                    }
                }
            }
            _ => (),
        }
    }
    Some((number?, outcome))
}

fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
    use crate::wire::tickserve::v1::{
        Error, PredictRequest, PredictResponse, PredictStreamRequest, PredictStreamResponse, Reason,
        predict_stream_request, predict_stream_response,
    };
    use prost::Message;

    #[test]
    fn a_numbered_request_is_the_same_request_with_its_number() {
        let predict = PredictRequest {
            model: "m".into(),
            features: vec![1.0, 2.0],
            ..Default::default()
        };
        for number in [1, 127, 128, u64::MAX] {
            let frame = numbered(Travel::PredictStream, &predict.encode_to_vec(), number);
            let read = PredictStreamRequest::decode(&frame[5..]).unwrap();
            let request = Some(predict_stream_request::Request::Predict(predict.clone()));
            assert_eq!(
                read,
                PredictStreamRequest {
                    sequence: number,
                    request
                }
            );
        }
        let infer = ModelInferRequest {
            model_name: "m".into(),
            ..Default::default()
        };
        let frame = numbered(Travel::InferStream, &infer.encode_to_vec(), 130);
        assert_eq!(
            ModelInferRequest::decode(&frame[5..]).unwrap(),
            ModelInferRequest {
                id: "130".into(),
                ..infer
            }
        );
        assert_eq!(frame[..5], [0, 0, 0, 0, (frame.len() - 5) as u8]);
    }

    #[test]
    fn answers_and_refusals_are_told_apart() {
        let predicted = |result| {
            let message = PredictStreamResponse {
                sequence: 300,
                result,
            };
            understand(Travel::PredictStream, &message.encode_to_vec())
        };
        let answer = predict_stream_response::Result::Answer(PredictResponse::default());
        assert_eq!(predicted(Some(answer)), Some((300, Outcome::Answered)));
        let error = Error {
            code: 8,
            reason: Reason::Overloaded.into(),
            ..Default::default()
        };
        assert_eq!(
            predicted(Some(predict_stream_response::Result::Error(error))),
            Some((300, Outcome::Refused(8, "OVERLOADED".into())))
        );
        assert_eq!(predicted(None), None);

        let inferred = |id: &str, error: &str| {
            let message = ModelStreamInferResponse {
                error_message: error.into(),
                infer_response: Some(ModelInferResponse {
                    id: id.into(),
                    ..Default::default()
                }),
            };
            understand(Travel::InferStream, &message.encode_to_vec())
        };
        assert_eq!(inferred("7", ""), Some((7, Outcome::Answered)));
        assert_eq!(
            inferred("7", "no\nsuch model"),
            Some((7, Outcome::RefusedInStream("no such model".into())))
        );
        assert_eq!(inferred("", ""), None);
        assert_eq!(understand(Travel::InferStream, b"\xff"), None);
    }

    #[test]
    fn the_reasons_are_those_of_the_protocol() {
        for (number, name) in REASONS.iter().enumerate().skip(1) {
            let reason = Reason::try_from(number as i32).unwrap();
            assert_eq!(reason.as_str_name(), format!("REASON_{name}"));
        }
        assert!(Reason::try_from(REASONS.len() as i32).is_err());
    }

    #[test]
    fn messages_are_whole_however_they_are_cut() {
        let mut read = BytesMut::new();
        let sent = [framed(b"one"), framed(b""), framed(b"three")].concat();
        let mut found = Vec::new();
        for byte in sent {
            read.extend_from_slice(&[byte]);
            found.extend(take_message(&mut read));
        }
        assert_eq!(found, [&b"one"[..], b"", b"three"]);
    }
}
