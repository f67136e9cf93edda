//! The version that answers where another one broke an output rule of policy `Fallback`: it runs once, on the same
//! inputs as they came, on the same thread.

use std::time::{Duration, Instant};

use crate::call::{Finding, FindingKind};
use crate::decode::{self, Parsed};
use crate::encode::Framing;
use crate::installed::Serving;
use crate::job::{Job, Outcome, Purpose, Timing};
use crate::plan::Policy;
use crate::session::Session;
use crate::texts::Texts;

/// What became of a request: of the version that it was routed to, and of the one that ran in its place.
#[derive(Debug)]
pub struct Outcomes {
    /// Of the version that the request was routed to.
    pub routed: Outcome,
    /// Of the fallback, where one was run. Where that was refused too, the client gets the first refusal.
    pub fallback: Option<Fallen>,
    /// The request, where it ran on another thread.
    pub request: Option<Box<Parsed>>,
}

/// What became of a request at the fallback.
#[derive(Debug)]
pub struct Fallen {
    /// 0 where its shape was refused.
    pub rows: u64,
    /// As of any version.
    pub outcome: Outcome,
}

/// A request whose first run is over.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Ran<'a> {
    pub request: &'a Parsed,
    pub drawn: &'a str,
    pub framing: Framing,
    pub timing: Timing,
    pub outcome: &'a Outcome,
}

impl From<Outcome> for Outcomes {
    fn from(routed: Outcome) -> Self {
        Self {
            routed,
            fallback: None,
            request: None,
        }
    }
}

impl Ran<'_> {
    /// Whether the fallback is to answer: a rule of that policy was broken, and there is time.
    fn asks_for(&self, fallback: &Serving) -> Option<(Purpose, Timing)> {
        let (call, run) = (self.outcome.seen.call.as_ref()?, self.outcome.seen.run?);
        if self.outcome.result.is_ok() {
            return None;
        }
        let findings = &call.findings;
        let broken = findings
            .violations
            .iter()
            .find(|broken| broken.policy == Policy::Fallback)?;
        let now = Instant::now();
        let run_time = Duration::from_nanos(fallback.runtime.loaded.figures().run_time_ns);
        if run
            .deadline
            .is_some_and(|deadline| deadline.saturating_duration_since(now) <= run_time)
        {
            return None;
        }
        let (row, column) = findings.withheld_at.unwrap_or_default();
        let finding = Finding {
            kind: FindingKind::Fallback,
            row,
            column,
            rule: broken.rule.clone(),
        };
        let timing = Timing {
            deadline: run.deadline,
            ..self.timing
        };
        let begun = now;
        Some((Purpose::Fallback { finding, begun }, timing))
    }

    /// Runs the fallback where it is to answer; `session` is this thread's, of that version.
    pub fn fall_back(
        &self,
        fallback: &Serving,
        session: Option<&mut Session>,
        is_pooled: bool,
        texts: &Texts,
        fault: impl FnOnce(String),
    ) -> Option<Fallen> {
        let (purpose, timing) = self.asks_for(fallback)?;
        // The request as it came: what was read of it is not there twice.
        let again = decode::parse(self.request.protocol(), self.request.message().clone(), texts);
        let read = again.and_then(|mut request| {
            request.target(self.drawn, texts)?;
            let shape = request.shape(&fallback.runtime.schema, texts)?;
            Ok((request, shape))
        });
        let (mut request, shape) = match read {
            Ok(read) => read,
            Err(refusal) => {
                let outcome = Outcome::refused(refusal);
                return Some(Fallen { rows: 0, outcome });
            }
        };
        let job = Job {
            texts,
            serving: fallback,
            request: &mut request,
            shape: &shape,
            drawn: self.drawn,
            framing: self.framing,
            timing,
            purpose,
        };
        let outcome = if is_pooled {
            job.run_in_pool(session, Instant::now(), fault)
        } else {
            job.run(session, fault)
        };
        Some(Fallen {
            rows: shape.rows,
            outcome,
        })
    }
}
