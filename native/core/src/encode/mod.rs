//! Answers: from outputs to the bytes of a message, alone or as one of a stream.

mod findings;
mod infer;
mod predict;
mod wire;

use std::sync::Arc;

use bytes::Bytes;

pub(crate) use self::wire::Writer;
use crate::call::{Call, Tensor};
use crate::plan::{Role, VersionPlan};
use crate::refusal::Refusal;
use crate::service::Protocol;
use crate::texts::{Name, Texts};

/// Room before an answer for what a stream puts around it.
const FRAME_BYTES: usize = 32;
/// Room for findings, where there are any.
const FINDING_BYTES: usize = 128;

/// Encodes the answers of one version in one role under one plan.
#[derive(Debug)]
pub struct Encoder {
    version: Arc<VersionPlan>,
    infer: infer::Head,
    predict: predict::Head,
}

impl Role {
    /// The role as metrics and answers name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
            Self::Shadow => "shadow",
            Self::Previous => "previous",
            Self::Fallback => "fallback",
        }
    }
}

/// How an answer is put: its protocol, the sequence of the message that it answers, and how large it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Framing {
    pub protocol: Protocol,
    /// Of a PredictStreamRequest.
    pub sequence: u64,
    /// What an answer may have, without what a stream puts around it.
    pub max_bytes: usize,
}

impl Encoder {
    /// Encodes what is the same for every answer.
    pub fn new(version: Arc<VersionPlan>, role: Role, generation: u64, position_scale: f64) -> Self {
        let infer = infer::Head::new(&version, role, generation);
        let predict = predict::Head::new(&version, role, generation, position_scale);
        Self {
            version,
            infer,
            predict,
        }
    }

    /// The answer to a call that was checked; `duration_ns` is the time from its arrival until now. Outputs are in the
    /// order of the schema.
    pub fn answer(
        &self,
        framing: Framing,
        call: &mut Call,
        outputs: &[Tensor],
        duration_ns: u64,
        texts: &Texts,
    ) -> Result<Bytes, Refusal> {
        let findings = FINDING_BYTES * call.findings.kept.len();
        let answer = match framing.protocol {
            Protocol::Infer | Protocol::InferStream => {
                let mut answer = start(framing, self.infer.size(call, outputs) + findings);
                self.infer.write(&mut answer, call, outputs);
                answer
            }
            Protocol::Predict | Protocol::PredictStream => {
                let mut answer = start(framing, self.predict.size(call, outputs) + findings);
                self.predict
                    .write(&mut answer, &self.version, call, outputs, duration_ns, texts)?;
                answer
            }
        };
        let size = answer.0.len() - room(framing.protocol);
        if size > framing.max_bytes {
            let facts = [("size", size.into()), ("bound", framing.max_bytes.into())];
            return Err(texts.refuse(Name::AnswerTooLong, "", &facts));
        }
        Ok(framed(framing, answer))
    }
}

/// A refusal as a stream answers it, or None where it is a status of the call.
pub fn refused(protocol: Protocol, sequence: u64, refusal: &Refusal) -> Option<Bytes> {
    let mut answer = Writer::default();
    match protocol {
        Protocol::Infer | Protocol::Predict => return None,
        Protocol::InferStream => {
            answer.text(1, &refusal.message);
            answer.message(2, |response| infer::only_id(response, &refusal.request_id));
        }
        Protocol::PredictStream => {
            answer.integer_always(1, sequence);
            answer.message(3, |error| {
                error.integer(1, u64::from(refusal.code.unsigned_abs()));
                error.integer(2, refusal.reason.map_or(0, |reason| reason as u64));
                error.text(3, &refusal.message);
                error.text(4, &refusal.field);
                error.text(5, &refusal.request_id);
                error.integer(6, refusal.executed.into());
            });
        }
    }
    Some(answer.0.into())
}

/// An empty answer with room in front for what a stream puts there.
fn start(framing: Framing, size: usize) -> Writer {
    let mut answer = Writer::with_capacity(room(framing.protocol) + size);
    answer.0.resize(room(framing.protocol), 0);
    answer
}

fn room(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Infer | Protocol::Predict => 0,
        Protocol::InferStream | Protocol::PredictStream => FRAME_BYTES,
    }
}

/// Puts a stream's frame into the room before an answer.
fn framed(framing: Framing, mut answer: Writer) -> Bytes {
    let room = room(framing.protocol);
    let size = answer.0.len() - room;
    let mut frame = Writer::with_capacity(FRAME_BYTES);
    match framing.protocol {
        Protocol::Infer | Protocol::Predict => {}
        Protocol::InferStream => frame.head(2, size),
        Protocol::PredictStream => {
            frame.integer_always(1, framing.sequence);
            frame.head(2, size);
        }
    }
    let start = room - frame.0.len();
    answer.0[start..room].copy_from_slice(&frame.0);
    Bytes::from(answer.0).slice(start..)
}
