//! Where a routed request runs: on the worker that it came to, on the pool, or nowhere.

use std::time::Duration;

use crate::decode::{Parsed, Shape};
use crate::installed::Serving;
use crate::job::Timing;
use crate::loaded::Loaded;
use crate::prepare::{INLINE_BYTES, INLINE_NS};
use crate::refusal::Refusal;
use crate::refuse;
use crate::shared::Shared;

/// Where and how a routed request runs.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) shape: Shape,
    pub(crate) timing: Timing,
    pub(crate) cost_ns: f64,
    pub(crate) runs_inline: bool,
}

/// Holds what a request asks for against its bounds, and chooses the thread. It stays on its worker only where the
/// fallback, which runs on the same thread, may too.
pub(crate) fn decide(
    shared: &Shared,
    serving: &Serving,
    fallback: Option<&Serving>,
    request: &Parsed,
    timing: Timing,
) -> Result<Decided, Refusal> {
    let runtime = &serving.runtime;
    let (version, loaded) = (&runtime.version, &runtime.loaded);
    let max_wait_us = version.limits.max_wait_us;
    let waited = timing.started.saturating_duration_since(timing.arrived);
    if max_wait_us != 0 && waited > Duration::from_micros(max_wait_us) {
        return Err(refuse::overloaded_wait(
            &shared.texts,
            &version.model,
            waited,
            max_wait_us,
        ));
    }
    let shape = request.shape(&runtime.schema, &shared.texts)?;
    let cost_of = |loaded: &Loaded| shape.values as f64 * loaded.ns_per_value();
    let is_short = |loaded: &Loaded| loaded.runs_inline() && cost_of(loaded) <= INLINE_NS;
    let cost_ns = cost_of(loaded);
    let runs_inline = request.size() <= INLINE_BYTES
        && is_short(loaded)
        && fallback.is_none_or(|fallback| is_short(&fallback.runtime.loaded));
    if !runs_inline {
        hold_queue(shared, serving, timing, waited, loaded.paced(cost_ns))?;
    }
    Ok(Decided {
        shape,
        timing,
        cost_ns,
        runs_inline,
    })
}

/// Refuses what would only wait in the queue until nobody wants it any more.
fn hold_queue(
    shared: &Shared,
    serving: &Serving,
    mut timing: Timing,
    waited: Duration,
    own_cost: Duration,
) -> Result<(), Refusal> {
    let ahead = shared.pool.wait();
    if ahead.is_zero() {
        return Ok(());
    }
    let version = &serving.runtime.version;
    let (wait, max_wait_us) = (waited + ahead, version.limits.max_wait_us);
    if max_wait_us != 0 && wait > Duration::from_micros(max_wait_us) {
        return Err(refuse::overloaded_wait(
            &shared.texts,
            &version.model,
            wait,
            max_wait_us,
        ));
    }
    timing.limit(version.limits.default_deadline_us);
    let Some(deadline) = timing.deadline else {
        return Ok(());
    };
    let left = deadline.saturating_duration_since(timing.started);
    if ahead + own_cost <= left {
        return Ok(());
    }
    let left_us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
    Err(refuse::overloaded_wait(
        &shared.texts,
        &version.model,
        ahead + own_cost,
        left_us,
    ))
}
