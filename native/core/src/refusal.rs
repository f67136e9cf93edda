//! Refusals: what a client is told instead of an answer. Their texts are the table of server/engine/texts.py, handed
//! in at start, so that there is one table for all engines.

/// Why a request was refused: the closed list of `tickserve.v1.Reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Reason {
    Overloaded = 1,
    RateLimited = 2,
    Draining = 3,
    Loading = 4,
    Halted = 5,
    StaleInput = 6,
    OutputRule = 7,
    FeaturesChanged = 8,
    PinRefused = 9,
    InvalidInput = 10,
    NotFound = 11,
    Deadline = 12,
    Internal = 13,
}

/// One refusal, ready to leave.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Refusal {
    /// The number of the gRPC status.
    pub code: i32,
    /// None for what is no prediction, such as PERMISSION_DENIED.
    pub reason: Option<Reason>,
    pub message: String,
    /// The field or tensor at fault, or empty.
    pub field: String,
    pub executed: bool,
    pub request_id: String,
}
