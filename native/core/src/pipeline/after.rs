//! What is left to do of a request when its run is over: it is counted, recorded, and kept for its shadow.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Worker;
use crate::clock::unix_ns;
use crate::decode::Parsed;
use crate::drawn::Drawn;
use crate::fallback::Outcomes;
use crate::installed::{Installed, Serving};
use crate::job::{Outcome, Purpose};
use crate::refusal::{Reason, Refusal};
use crate::shadow::Copied;
use crate::tap::{Asked, Columns, Way, Why};
use crate::texts::{MAX_ID_BYTES, bounded};

/// A routed request on its way, but for its message.
#[derive(Clone, Copy)]
pub(super) struct Routed<'a> {
    pub(super) installed: &'a Arc<Installed>,
    pub(super) serving: &'a Serving,
    pub(super) drawn: Drawn,
    pub(super) way: Option<Way>,
    /// Where it is copied to a shadow.
    pub(super) sample: Option<Sample>,
    pub(super) started: Instant,
    /// 0 where its shape was refused.
    pub(super) rows: u64,
}

/// What is decided of a copy before the run.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    /// What the processor time of runs is held against, if anything.
    edge_ns: Option<u64>,
    /// Whether the copy would have room: else that time is not taken.
    has_room: bool,
}

impl Worker {
    /// Whether a request is copied to a shadow, should its model run.
    pub(super) fn sample(
        &self,
        installed: &Installed,
        serving: &Serving,
        why: Why,
        request: &Parsed,
        drawn: &str,
    ) -> Option<Sample> {
        let shadow = installed.shadow_at(serving.place)?;
        let own = request.request_id("");
        let id = if own.is_empty() { drawn } else { own };
        if why != Why::Split || !shadow.samples(serving, id) {
            return None;
        }
        Some(Sample {
            edge_ns: shadow.edge_ns(),
            has_room: self.shared.shadows.has_room(),
        })
    }

    /// Counts and records what became of a routed request, keeps what its shadow gets, and names a refusal.
    pub(super) fn finish(
        &self,
        routed: Routed<'_>,
        request: Option<&Parsed>,
        id: &str,
        asked: Option<Asked<'_>>,
        outcomes: Outcomes,
    ) -> Result<Bytes, Refusal> {
        let Outcomes {
            routed: outcome,
            fallback,
            ..
        } = outcomes;
        let rows = routed.rows;
        self.note(routed.serving, rows, asked, &outcome);
        if let (Some(sample), Some(request)) = (routed.sample, request) {
            self.keep_copy(routed, sample, request, &outcome);
        }
        let serving = routed.installed.fallback_of(routed.serving);
        if let (Some(serving), Some(fallback)) = (serving, fallback) {
            let asked = asked.map(Asked::for_fallback);
            self.note(serving, fallback.rows, asked, &fallback.outcome);
            if let Ok((answer, _)) = fallback.outcome.result {
                return Ok(answer);
            }
        }
        match outcome.result {
            Ok((answer, _)) => Ok(answer),
            Err(refusal) => Err(named(refusal, id)),
        }
    }

    /// Counts and records what became of a request at one version.
    fn note(&self, serving: &Serving, rows: u64, asked: Option<Asked<'_>>, outcome: &Outcome) {
        let now_unix_ns = unix_ns();
        if let (Some(tap), Some(asked)) = (&self.tap, asked) {
            tap.borrow_mut()
                .record(serving, &asked, rows, outcome, now_unix_ns);
        }
        let budget_ns = serving
            .runtime
            .version
            .limits
            .latency_budget_us
            .saturating_mul(1000);
        let tally = serving.tallies.of(self.index);
        tally.count_outcome(outcome, rows, budget_ns, now_unix_ns);
    }

    /// Keeps a copy for the shadow until the answer is in line. One of a request whose model did not run says nothing,
    /// and neither does one that was late, since a shadow never is.
    fn keep_copy(&self, routed: Routed<'_>, sample: Sample, request: &Parsed, outcome: &Outcome) {
        let is_late = |refusal: &Refusal| refusal.reason == Some(Reason::Deadline);
        let Some(run) = outcome.seen.run else { return };
        if outcome.result.as_ref().is_err_and(is_late) {
            return;
        }
        let tapped = routed.serving.tapped;
        let compared = tapped.and_then(|tapped| Some((tapped.compared?, Columns::compared(tapped, outcome))));
        let copied = Copied {
            installed: Arc::clone(routed.installed),
            place: routed.serving.place,
            protocol: request.protocol(),
            message: request.message().clone(),
            drawn: routed.drawn,
            started: routed.started,
            checked_unix_ns: run.checked_unix_ns,
            key_bucket: routed.way.map_or(0, |way| way.key_bucket),
            compared,
        };
        if sample.edge_ns.is_some() && run.cpu_ns.is_none() {
            // There was no room before the run.
            return copied.count_dropped();
        }
        // One whose answer nobody took in line goes before.
        self.hand_over();
        *self.copied.borrow_mut() = Some(copied);
    }

    /// Hands over what was kept, now that the answer is in line.
    pub(super) fn hand_over(&self) {
        if self.copied.borrow().is_none() {
            return;
        }
        if let Some(copied) = self.copied.take() {
            self.shared.shadows.offer(copied);
        }
    }

    /// Counts a refusal that reached no version; only names that are known here become labels.
    pub(super) fn count_unrouted(&self, installed: &Installed, model: &str, refusal: &Refusal) {
        let label = if installed.knows(model) { model } else { "" };
        self.shared.refusals[self.index].count(label, refusal.reason);
    }
}

impl Routed<'_> {
    pub(super) fn purpose(&self) -> Purpose {
        Purpose::Answer {
            edge_ns: self
                .sample
                .filter(|sample| sample.has_room)
                .and_then(|sample| sample.edge_ns),
        }
    }
}

/// A refusal with the id of its request.
pub(super) fn named(mut refusal: Refusal, id: &str) -> Refusal {
    refusal.request_id = bounded(id, MAX_ID_BYTES);
    refusal
}
