//! One decoded request on its way through the checks.

use bytes::Bytes;

use crate::plan::{Datatype, Policy};

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

/// Places that one answer names at most; part of the protocol.
pub const MAX_FINDINGS: usize = 100;

/// How often a rule was broken, under its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Violation {
    pub rule: String,
    pub policy: Policy,
    pub times: u64,
}

/// What the rules found on one request: the first places for the answer, and how often each rule was broken.
///
/// A broken rule can have as many places as the request has values; `MAX_FINDINGS` bounds what an answer names.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Findings {
    pub kept: Vec<Finding>,
    pub left_out: u64,
    /// To be counted whatever becomes of the request.
    pub violations: Vec<Violation>,
    /// The first place, row and column, where the rule was broken that keeps the answer from leaving; none where such a
    /// rule is about the whole.
    pub withheld_at: Option<(u32, u32)>,
}

impl Findings {
    /// Takes one place.
    pub fn add(&mut self, kind: FindingKind, row: usize, column: usize, rule: impl FnOnce() -> String) {
        if self.kept.len() < MAX_FINDINGS {
            self.kept.push(Finding {
                kind,
                row: row as u32,
                column: column as u32,
                rule: rule(),
            });
        } else {
            self.left_out += 1;
        }
    }

    /// Takes one place that an answer names before all others.
    pub fn put_first(&mut self, finding: Finding) {
        if self.kept.len() == MAX_FINDINGS {
            self.kept.pop();
            self.left_out += 1;
        }
        self.kept.insert(0, finding);
    }

    /// How often rules were broken, all of them.
    pub fn times_broken(&self) -> u64 {
        self.violations.iter().map(|broken| broken.times).sum()
    }

    /// Counts broken rules.
    pub fn count(&mut self, rule: &str, policy: Policy, times: u64) {
        match self
            .violations
            .iter_mut()
            .find(|broken| broken.policy == policy && broken.rule == rule)
        {
            Some(broken) => broken.times += times,
            None => self.violations.push(Violation {
                rule: rule.to_owned(),
                policy,
                times,
            }),
        }
    }
}

/// A request that was parsed, routed and read; `inputs` are in the order of the model's.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Call {
    pub inputs: Vec<Tensor>,
    pub rows: u64,
    pub request_id: String,
    /// 0 where there is none; as wide as both kinds of integers that it may come as.
    pub event_time_unix_ns: i128,
    pub timeout_us: u64,
    /// Which outputs to send, by index; None is all of them.
    pub outputs: Option<Vec<usize>>,
    pub findings: Findings,
    /// The elements of the first input as they came, where a rule replaced them.
    pub received: Option<Elements>,
}
