//! One decoded request on its way through the checks.

use bytes::Bytes;

use crate::plan::Datatype;

/// The elements of a tensor, row-major and little-endian.
#[derive(Clone, Debug)]
pub enum Elements {
    /// Numbers, as they are in the message or in a buffer of our own; not necessarily aligned.
    Numbers(Bytes),
    /// Elements of BYTES, each UTF-8.
    Strings(Vec<String>),
}

/// One tensor in or out. Invariant: the elements are as many as the shape says.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Tensor {
    pub datatype: Datatype,
    pub shape: Vec<i64>,
    pub elements: Elements,
}

/// Numbered as `tickserve.v1.FindingKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum FindingKind {
    Clipped = 1,
    Flagged = 2,
    Fallback = 3,
    Stale = 4,
    Defaulted = 5,
}

/// Something to know about an answer.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Finding {
    pub kind: FindingKind,
    pub row: u32,
    pub column: u32,
    pub rule: String,
}

/// A request that was parsed, routed and read; `inputs` are in the order of the model's.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Call {
    pub inputs: Vec<Tensor>,
    pub rows: u64,
    pub request_id: String,
    pub event_time_unix_ns: i64,
    pub timeout_us: u64,
    /// Which outputs to send, by index; None is all of them.
    pub outputs: Option<Vec<usize>>,
    pub findings: Vec<Finding>,
}
