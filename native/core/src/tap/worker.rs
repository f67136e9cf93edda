//! The tap of one worker: what it records and counts of each request that it has seen to its end.

use std::sync::Arc;

use super::layout::flag;
use super::page::{Columns, Page};
use super::record::{Entities, Id, Record, Why};
use super::ring::RingWriter;
use crate::counters::Durations;
use crate::decode::Parsed;
use crate::installed::{Serving, Tapped};
use crate::job::Outcome;
use crate::refusal::Refusal;

const INVALID_ARGUMENT: i32 = 3;
const FAILED_PRECONDITION: i32 = 9;

/// The ring of a worker and its rows of the counters page.
#[derive(Debug)]
pub struct Tap {
    worker: usize,
    ring: RingWriter,
    page: Arc<Page>,
}

/// What is kept of a request from its routing to its end.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    request_id: Id,
    routing_key: Id,
    is_drawn: bool,
    why: Why,
    key_bucket: u8,
}

impl Asked {
    /// Of a request that was routed; `drawn` is its id where it brings none.
    pub fn new(request: &Parsed, drawn: &str, why: Why, key_bucket: u8) -> Self {
        let own = request.request_id("");
        let is_drawn = own.is_empty();
        Self {
            request_id: Id::new(if is_drawn { drawn } else { own }),
            routing_key: Id::new(request.routing_key()),
            is_drawn,
            why,
            key_bucket,
        }
    }
}

impl Tap {
    /// Takes what the worker writes to.
    pub fn new(worker: usize, ring: RingWriter, page: Arc<Page>) -> Self {
        Self { worker, ring, page }
    }

    /// Records and counts a request; `rows` are 0 where its shape was refused.
    pub fn record(
        &mut self,
        serving: &Serving,
        asked: &Asked,
        rows: u64,
        entities: Entities<'_>,
        outcome: &Outcome,
        now_unix_ns: i64,
    ) {
        let Some(tapped) = serving.tapped else { return };
        self.count(serving, tapped, asked, outcome);
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
            why: asked.why,
            key_bucket: asked.key_bucket,
            flags: flags.fold(0, |sum, (_, flag)| sum | flag),
            request_id: &asked.request_id,
            routing_key: &asked.routing_key,
            trace_id: [0; 16],
            inputs: call.map_or(&[], |call| &call.inputs),
            received: call.and_then(|call| call.received.as_ref()),
            outputs: seen.outputs.as_deref().unwrap_or_default(),
            entities: if call.is_some() { entities } else { Entities::None },
            findings: findings.map_or(&[], |findings| &findings.kept),
            findings_left_out: findings.map_or(0, |findings| findings.left_out),
            broken_rules: findings.map_or(&[], |findings| &findings.violations),
        });
    }

    fn count(&self, serving: &Serving, tapped: Tapped, asked: &Asked, outcome: &Outcome) {
        let (Some(block), Why::Split | Why::Shadow) = (tapped.block, asked.why) else {
            return;
        };
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
        let refusal = outcome.result.as_ref().err();
        let broken = outcome.seen.call.as_ref().map(|call| &call.findings.violations);
        let columns = Columns {
            error: refusal.is_some(),
            failure: refusal.is_some_and(is_failure),
            violation: broken.is_some_and(|broken| !broken.is_empty()),
            output_violation: outcome.seen.broke_output,
            over_budget: is_over(budget_ns),
            over_edge: is_over(tapped.latency_edge_ns),
        };
        self.page.count(self.worker, block, asked.key_bucket, columns);
    }
}

/// Whether a refusal is not for the client to mend.
fn is_failure(refusal: &Refusal) -> bool {
    !matches!(refusal.code, INVALID_ARGUMENT | FAILED_PRECONDITION)
}

fn narrow(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}
