//! What is recorded of one request, borrowed from wherever it is.

use crate::call::{Elements, Finding, Tensor, Violation};
use crate::counters::Durations;
use crate::decode::Span;
use crate::plan::Role;

/// Why a version got a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Why {
    Split = 1,
    Pin = 2,
    Fallback = 3,
    Shadow = 4,
    Smoke = 5,
}

/// The entities of a request, where they are in it.
#[derive(Clone, Copy, Debug, Default)]
pub enum Entities<'a> {
    /// None given.
    #[default]
    None,
    /// Parts of a message.
    Parts {
        /// The message.
        message: &'a [u8],
        /// The first part.
        first: Span,
        /// The others.
        rest: &'a [Span],
    },
    /// One text with commas between them.
    Commas(&'a str),
}

impl Entities<'_> {
    /// Gives each in order.
    pub(super) fn visit(self, mut take: impl FnMut(&[u8])) {
        match self {
            Self::None => {}
            Self::Parts { message, first, rest } => std::iter::once(&first)
                .chain(rest)
                .for_each(|part| take(&message[part.range()])),
            Self::Commas(text) => text.split(',').for_each(|entity| take(entity.as_bytes())),
        }
    }
}

/// One record; the fields are explained in docs/formats/tap.md.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Record<'a> {
    pub time_unix_ns: i64,
    pub event_time_unix_ns: i64,
    pub plan_generation: u64,
    pub split_generation: u64,
    pub durations: Durations,
    pub version: u32,
    pub rows: u64,
    pub status: u8,
    pub reason: u8,
    pub role: Role,
    pub why: Why,
    pub key_bucket: u8,
    pub flags: u16,
    /// Of at most 64 bytes, as the routing key; longer ones are cut.
    pub request_id: &'a str,
    pub routing_key: &'a str,
    pub trace_id: [u8; 16],
    pub inputs: &'a [Tensor],
    /// The elements of the first input as they came, where those in `inputs` were changed.
    pub received: Option<&'a Elements>,
    pub outputs: &'a [Tensor],
    pub entities: Entities<'a>,
    pub findings: &'a [Finding],
    pub findings_left_out: u64,
    pub broken_rules: &'a [Violation],
}

impl<'a> Record<'a> {
    /// Inputs with the elements that they came with.
    pub(super) fn inputs(&self) -> impl Iterator<Item = (&'a Tensor, &'a Elements)> + use<'a> {
        let mut received = self.received;
        self.inputs
            .iter()
            .map(move |tensor| (tensor, received.take().unwrap_or(&tensor.elements)))
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = (&'a Tensor, &'a Elements)> + use<'a> {
        self.outputs.iter().map(|tensor| (tensor, &tensor.elements))
    }
}
