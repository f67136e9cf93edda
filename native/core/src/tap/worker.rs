//! The tap of one thread: what it records and counts of each request that it has seen to its end.

use std::sync::Arc;

use super::layout::flag;
use super::page::{Columns, Page};
use super::record::{Entities, Record, Why};
use super::ring::RingWriter;
use crate::counters::Durations;
use crate::decode::Parsed;
use crate::installed::{Serving, Tapped};
use crate::job::Outcome;
use crate::refusal::Refusal;

const INVALID_ARGUMENT: i32 = 3;
const FAILED_PRECONDITION: i32 = 9;

/// The ring of a thread and its rows of the counters page.
#[derive(Debug)]
pub struct Tap {
    writer: usize,
    ring: RingWriter,
    page: Arc<Page>,
}

/// How a request was routed.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Way {
    pub why: Why,
    pub key_bucket: u8,
}

/// What a request says of itself.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Asked<'a> {
    pub request_id: &'a str,
    pub is_drawn: bool,
    pub routing_key: &'a str,
    pub entities: Entities<'a>,
    pub way: Way,
}

/// The same of a request that goes to another thread and may not come back.
#[derive(Clone, Debug)]
pub struct Kept {
    request_id: String,
    is_drawn: bool,
    routing_key: String,
    way: Way,
}

impl<'a> Asked<'a> {
    /// Of a request that was routed; `drawn` is its id where it brings none.
    pub fn new(request: &'a Parsed, drawn: &'a str, way: Way) -> Self {
        let own = request.request_id("");
        let is_drawn = own.is_empty();
        Self {
            request_id: if is_drawn { drawn } else { own },
            is_drawn,
            routing_key: request.routing_key(),
            entities: request.entities(),
            way,
        }
    }

    /// Of the same request at the version that answers in place of the one that it was routed to.
    pub fn for_fallback(mut self) -> Self {
        self.way.why = Why::Fallback;
        self
    }

    /// A copy of all but the entities.
    pub fn keep(&self) -> Kept {
        Kept {
            request_id: self.request_id.to_owned(),
            is_drawn: self.is_drawn,
            routing_key: self.routing_key.to_owned(),
            way: self.way,
        }
    }
}

impl Kept {
    /// With the entities of the request, where it came back.
    pub fn asked<'a>(&'a self, request: Option<&'a Parsed>) -> Asked<'a> {
        Asked {
            request_id: &self.request_id,
            is_drawn: self.is_drawn,
            routing_key: &self.routing_key,
            entities: request.map_or(Entities::None, Parsed::entities),
            way: self.way,
        }
    }
}

impl Tap {
    /// Takes what the thread writes to; `writer` is its number in the page.
    pub fn new(writer: usize, ring: RingWriter, page: Arc<Page>) -> Self {
        Self { writer, ring, page }
    }

    /// Records and counts a request; `rows` are 0 where its shape was refused.
    pub fn record(
        &mut self,
        serving: &Serving,
        asked: &Asked<'_>,
        rows: u64,
        outcome: &Outcome,
        now_unix_ns: i64,
    ) {
        let Some(tapped) = serving.tapped else { return };
        self.count(serving, tapped, asked.way, outcome);
        let (seen, refusal) = (&outcome.seen, outcome.result.as_ref().err());
        let call = seen.call.as_ref();
        let is_executed = refusal.is_none_or(|refusal| refusal.executed);
        let flags = [
            (is_executed, flag::EXECUTED),
            (call.is_some(), flag::READ),
            (seen.outputs.is_some(), flag::RAN),
            (asked.is_drawn, flag::DRAWN),
        ];
        let flags = flags.into_iter().filter(|(is_so, _)| *is_so);
        let findings = call.map(|call| &call.findings);
        self.ring.write(&Record {
            time_unix_ns: now_unix_ns,
            event_time_unix_ns: call.map_or(0, |call| narrow(call.event_time_unix_ns)),
            plan_generation: serving.generation,
            split_generation: tapped.split_generation,
            durations: outcome
                .result
                .as_ref()
                .map_or(Durations::default(), |(_, durations)| *durations),
            version: tapped.version,
            rows,
            status: refusal.map_or(0, |refusal| refusal.code as u8),
            reason: refusal
                .and_then(|refusal| refusal.reason)
                .map_or(0, |reason| reason as u8),
            role: serving.role,
            why: asked.way.why,
            key_bucket: asked.way.key_bucket,
            flags: flags.fold(0, |sum, (_, flag)| sum | flag),
            request_id: asked.request_id,
            routing_key: asked.routing_key,
            trace_id: [0; 16],
            inputs: call.map_or(&[], |call| &call.inputs),
            received: call.and_then(|call| call.received.as_ref()),
            outputs: seen.outputs.as_deref().unwrap_or_default(),
            entities: if call.is_some() {
                asked.entities
            } else {
                Entities::None
            },
            findings: findings.map_or(&[], |findings| &findings.kept),
            findings_left_out: findings.map_or(0, |findings| findings.left_out),
            broken_rules: findings.map_or(&[], |findings| &findings.violations),
        });
    }

    /// Counts a request once more, in another block.
    pub fn count_also(&self, block: u32, key_bucket: u8, columns: Columns) {
        self.page.count(self.writer, block, key_bucket, columns);
    }

    fn count(&self, serving: &Serving, tapped: Tapped, way: Way, outcome: &Outcome) {
        let Some(block) = tapped.block else { return };
        let columns = match way.why {
            Why::Split => Columns::of(serving, tapped, outcome),
            Why::Shadow => Columns::compared(tapped, outcome),
            Why::Pin | Why::Fallback | Why::Smoke => return,
        };
        self.page.count(self.writer, block, way.key_bucket, columns);
    }
}

impl Columns {
    /// What a request is counted as.
    fn of(serving: &Serving, tapped: Tapped, outcome: &Outcome) -> Self {
        let total_ns = outcome
            .result
            .as_ref()
            .map_or(0, |(_, durations)| durations.total());
        let budget_ns = serving
            .runtime
            .version
            .limits
            .latency_budget_us
            .saturating_mul(1000);
        let is_over = |bound_ns: u64| bound_ns != 0 && total_ns > bound_ns;
        Self {
            over_budget: is_over(budget_ns),
            over_edge: is_over(tapped.latency_edge_ns),
            ..Self::of_outcome(outcome)
        }
    }

    /// What one is counted as that a shadow ran too, and what the shadow's run of it is. The two waited for different
    /// things, so only what the processor did is held against the edge.
    pub fn compared(tapped: Tapped, outcome: &Outcome) -> Self {
        let (edge_ns, run) = (tapped.latency_edge_ns, outcome.seen.run);
        let cpu_ns = run.and_then(|run| run.cpu_ns).unwrap_or(0);
        Self {
            run_over_edge: edge_ns != 0 && cpu_ns > edge_ns,
            ..Self::of_outcome(outcome)
        }
    }

    fn of_outcome(outcome: &Outcome) -> Self {
        let refusal = outcome.result.as_ref().err();
        let broken = outcome.seen.call.as_ref().map(|call| &call.findings.violations);
        Self {
            error: refusal.is_some(),
            failure: refusal.is_some_and(is_failure),
            violation: broken.is_some_and(|broken| !broken.is_empty()),
            output_violation: outcome.seen.broke_output,
            ..Self::default()
        }
    }
}

/// Whether a refusal is not for the client to mend.
fn is_failure(refusal: &Refusal) -> bool {
    !matches!(refusal.code, INVALID_ARGUMENT | FAILED_PRECONDITION)
}

fn narrow(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}
