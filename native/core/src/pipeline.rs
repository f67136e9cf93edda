//! The way of one request: admit, route, then its job on the worker or on the pool; apart from how it arrived.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::decode::{self, Parsed, Shape};
use crate::describe;
use crate::drawn::Draw;
use crate::encode::{Framing, refused};
use crate::faults::panic_text;
use crate::in_flight::InFlight;
use crate::installed::{Installed, Serving};
use crate::job::{Job, Outcome, Timing, unix_ns};
use crate::prepare::{INLINE_BYTES, INLINE_NS};
use crate::refusal::Refusal;
use crate::refuse;
use crate::seat::Seat;
use crate::service::{Answering, Arrival, Describe, Protocol, Refused, Service};
use crate::shared::Shared;
use crate::tap::{Asked, Tap, Way, Why};
use crate::texts::{MAX_ID_BYTES, bounded};

/// Answers the requests of one worker thread, on it.
#[derive(Debug)]
pub struct Pipeline {
    worker: Rc<Worker>,
}

#[derive(Debug)]
struct Worker {
    shared: Arc<Shared>,
    index: usize,
    // Borrowed while a request runs inline, which nothing interrupts.
    seat: RefCell<Seat>,
    draw: RefCell<Draw>,
    // Borrowed while a record is written.
    tap: Option<RefCell<Tap>>,
}

/// A request until a thread of the pool takes it, or its worker gives it up: what a client took back is not kept until
/// its turn comes, since nothing bounds how much of that there is.
struct Queued(Arc<Mutex<Option<Parsed>>>);

/// Where and how a routed request runs.
struct Decided {
    shape: Shape,
    timing: Timing,
    cost_ns: f64,
    runs_inline: bool,
}

impl Pipeline {
    pub(crate) fn new(shared: Arc<Shared>, seat: Seat, draw: Draw, tap: Option<Tap>) -> Self {
        let (index, seat, draw) = (seat.index(), RefCell::new(seat), RefCell::new(draw));
        let tap = tap.map(RefCell::new);
        Self {
            worker: Rc::new(Worker {
                shared,
                index,
                seat,
                draw,
                tap,
            }),
        }
    }

    fn dispatch(&self, protocol: Protocol, message: Bytes, arrival: Arrival) -> Answering {
        let worker = &self.worker;
        let texts = &worker.shared.texts;
        let request = match decode::parse(protocol, message, texts) {
            Ok(request) => request,
            Err(refusal) => {
                worker.shared.refusals[worker.index].count("", refusal.reason);
                return Answering::Now(Err(refusal));
            }
        };
        if let Err(refusal) = request.require_request(texts) {
            return Answering::Now(within(worker.framing(&request), Err(refusal)));
        }
        worker.answer(request, arrival)
    }
}

impl Service for Pipeline {
    fn answer(&self, protocol: Protocol, message: Bytes, arrival: Arrival) -> Answering {
        // What a request borrows is put right by guards, and what it writes is written anew by the next.
        catch_unwind(AssertUnwindSafe(|| self.dispatch(protocol, message, arrival))).unwrap_or_else(
            |payload| {
                let shared = &self.worker.shared;
                shared.faults.keep(panic_text(payload.as_ref()));
                Answering::Now(Err(refuse::internal(&shared.texts)))
            },
        )
    }

    fn describe(&self, call: Describe, message: &[u8]) -> Result<Bytes, Refusal> {
        let shared = &self.worker.shared;
        let described = catch_unwind(AssertUnwindSafe(|| describe::describe(shared, call, message)));
        let described = described.unwrap_or_else(|payload| {
            shared.faults.keep(panic_text(payload.as_ref()));
            Err(refuse::fault(&shared.texts))
        });
        described.inspect_err(|refusal| {
            // One that ends a stream, and so is that of a message like any other.
            if call == Describe::ServerReflectionInfo {
                shared.refusals[self.worker.index].count("", refusal.reason);
            }
        })
    }

    fn refuse(&self, what: Refused<'_>) -> Refusal {
        let texts = &self.worker.shared.texts;
        match what {
            Refused::Draining => refuse::draining(texts),
            Refused::AdminOnly => refuse::admin_only(texts),
            Refused::UnknownService(service) => refuse::unknown_service(texts, service),
            Refused::Malformed(message) => refuse::malformed(texts, message),
        }
    }
}

impl Worker {
    fn answer(self: &Rc<Self>, mut request: Parsed, arrival: Arrival) -> Answering {
        let started = Instant::now();
        let shared = &self.shared;
        let framing = self.framing(&request);
        let drawn = self.draw.borrow_mut().draw();
        let drawn = drawn.as_str();
        let in_flight = InFlight::enter(shared, arrival.client);
        let installed = shared.installed.load();
        let routed = in_flight.admit().and_then(|()| {
            let target = request.target(drawn, &shared.texts)?;
            let routed = installed.route(&shared.texts, &target, &arrival.identity)?;
            let why = if target.version.is_empty() {
                Why::Split
            } else {
                Why::Pin
            };
            let is_tapped = self.tap.is_some() && routed.serving.tapped.is_some();
            let way = is_tapped.then(|| Way {
                why,
                key_bucket: installed.key_bucket(routed, target.key),
            });
            Ok((routed.serving, way))
        });
        let (serving, way) = match routed {
            Ok(routed) => routed,
            Err(refusal) => {
                self.count_unrouted(&installed, request.model(), &refusal);
                let refusal = named(refusal, request.request_id(drawn));
                return Answering::Now(within(framing, Err(refusal)));
            }
        };
        let timing = Timing {
            arrived: arrival.arrived,
            started,
            deadline: arrival.deadline,
        };
        let decided = match self.decide(serving, &request, timing) {
            Ok(decided) => decided,
            Err(refusal) => {
                let outcome = Outcome::refused(refusal);
                let asked = way.map(|way| Asked::new(&request, drawn, way));
                let answer = self.finish(serving, 0, request.request_id(drawn), asked, outcome);
                return Answering::Now(within(framing, answer));
            }
        };
        if decided.runs_inline {
            let Decided { shape, timing, .. } = &decided;
            let (texts, timing) = (&shared.texts, *timing);
            let job = Job {
                texts,
                serving,
                request: &mut request,
                shape,
                drawn,
                framing,
                timing,
            };
            let outcome = job.run(&mut self.seat.borrow_mut(), |text| shared.faults.keep(text));
            let asked = way.map(|way| Asked::new(&request, drawn, way));
            let answer = self.finish(serving, shape.rows, request.request_id(drawn), asked, outcome);
            return Answering::Now(within(framing, answer));
        }
        let (id, rows, place) = (
            request.request_id(drawn).to_owned(),
            decided.shape.rows,
            serving.place,
        );
        let kept = way.map(|way| Asked::new(&request, drawn, way).keep());
        request.shed(&serving.runtime.schema);
        let queued = Queued(Arc::new(Mutex::new(Some(request))));
        let given_up = Queued(Arc::clone(&queued.0));
        let queued = self.submit(queued, framing, &installed, serving, decided, id.clone());
        let (worker, installed) = (Rc::clone(self), Arc::clone(&installed));
        Answering::Later(Box::pin(async move {
            let mut outcome = match queued {
                // A sender that is gone without a word panicked, and the pool has kept why.
                Ok(outcome) => outcome
                    .await
                    .unwrap_or_else(|_| Outcome::refused(refuse::internal(&worker.shared.texts))),
                Err(refusal) => Outcome::refused(refusal),
            };
            let request = outcome.request.take();
            let asked = kept.as_ref().map(|kept| kept.asked(request.as_deref()));
            let answer = worker.finish(installed.at(place), rows, &id, asked, outcome);
            drop((given_up, in_flight));
            within(framing, answer)
        }))
    }

    fn framing(&self, request: &Parsed) -> Framing {
        let max_bytes = self.shared.bounds.max_answer_bytes;
        Framing {
            protocol: request.protocol(),
            sequence: request.sequence(),
            max_bytes,
        }
    }

    /// Holds what a request asks for against its bounds, and chooses the thread.
    fn decide(&self, serving: &Serving, request: &Parsed, timing: Timing) -> Result<Decided, Refusal> {
        let (shared, runtime) = (&self.shared, &serving.runtime);
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
        let cost_ns = shape.values as f64 * loaded.ns_per_value();
        let runs_inline = cost_ns <= INLINE_NS && request.size() <= INLINE_BYTES && loaded.runs_inline();
        if !runs_inline {
            self.hold_queue(serving, timing, waited, loaded.paced(cost_ns))?;
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
        &self,
        serving: &Serving,
        mut timing: Timing,
        waited: Duration,
        own_cost: Duration,
    ) -> Result<(), Refusal> {
        let ahead = self.shared.pool.wait();
        if ahead.is_zero() {
            return Ok(());
        }
        let version = &serving.runtime.version;
        let (wait, max_wait_us) = (waited + ahead, version.limits.max_wait_us);
        if max_wait_us != 0 && wait > Duration::from_micros(max_wait_us) {
            return Err(refuse::overloaded_wait(
                &self.shared.texts,
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
            &self.shared.texts,
            &version.model,
            ahead + own_cost,
            left_us,
        ))
    }

    /// Queues a request for the pool.
    fn submit(
        &self,
        queued: Queued,
        framing: Framing,
        installed: &Arc<Installed>,
        serving: &Serving,
        decided: Decided,
        drawn: String,
    ) -> Result<oneshot::Receiver<Outcome>, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let (shared, installed, place) = (Arc::clone(&self.shared), Arc::clone(installed), serving.place);
        let Decided {
            shape,
            timing,
            cost_ns,
            ..
        } = decided;
        let paced = serving.runtime.loaded.paced(cost_ns);
        let submitted = Instant::now();
        let job = move |seat: &mut Seat| {
            // Where it is gone nobody waits for it any more.
            let Some(mut request) = queued.take() else { return };
            let serving = installed.at(place);
            let (texts, shape) = (&shared.texts, &shape);
            let job = Job {
                texts,
                serving,
                request: &mut request,
                shape,
                drawn: &drawn,
                framing,
                timing,
            };
            let taken = Instant::now();
            let mut outcome = job.run_in_pool(seat, submitted, |text| shared.faults.keep(text));
            if outcome.result.is_ok() {
                serving.runtime.loaded.observe(cost_ns, taken.elapsed());
            }
            outcome.request = Some(Box::new(request));
            let _given_up = sender.send(outcome);
        };
        let cost_ns = u64::try_from(paced.as_nanos()).unwrap_or(u64::MAX);
        match self.shared.pool.submit(cost_ns, Box::new(job)) {
            Ok(()) => Ok(receiver),
            Err(_full) => {
                let (model, wait) = (&serving.runtime.version.model, self.shared.pool.wait());
                let max_wait_us = serving.runtime.version.limits.max_wait_us;
                Err(refuse::overloaded_wait(
                    &self.shared.texts,
                    model,
                    wait,
                    max_wait_us,
                ))
            }
        }
    }

    /// Counts and records what became of a routed request, and names a refusal.
    fn finish(
        &self,
        serving: &Serving,
        rows: u64,
        id: &str,
        asked: Option<Asked<'_>>,
        outcome: Outcome,
    ) -> Result<Bytes, Refusal> {
        let tally = serving.tallies.of(self.index);
        let call = outcome.seen.call.as_ref();
        for broken in call.map_or(&[][..], |call| &call.findings.violations) {
            tally.count_violations(&broken.rule, broken.policy, broken.times);
        }
        let now_unix_ns = unix_ns();
        if let (Some(tap), Some(asked)) = (&self.tap, asked) {
            tap.borrow_mut()
                .record(serving, &asked, rows, &outcome, now_unix_ns);
        }
        match outcome.result {
            Ok((answer, durations)) => {
                let budget_us = serving.runtime.version.limits.latency_budget_us;
                let is_slow = budget_us != 0 && durations.total() > budget_us.saturating_mul(1000);
                tally.count(&durations, rows, is_slow, u64::try_from(now_unix_ns).unwrap_or(0));
                Ok(answer)
            }
            Err(refusal) => {
                tally.count_error(refusal.reason);
                Err(named(refusal, id))
            }
        }
    }

    /// Counts a refusal that reached no version; only names that are known here become labels.
    fn count_unrouted(&self, installed: &Installed, model: &str, refusal: &Refusal) {
        let label = if installed.knows(model) { model } else { "" };
        self.shared.refusals[self.index].count(label, refusal.reason);
    }
}

impl Queued {
    /// Neither side waits for the other: a lock that is held means that the other one takes it.
    fn take(&self) -> Option<Parsed> {
        match self.0.try_lock() {
            Ok(mut request) => request.take(),
            Err(TryLockError::Poisoned(held)) => held.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// A refusal of a streamed message is an answer of the stream.
fn within(framing: Framing, answer: Result<Bytes, Refusal>) -> Result<Bytes, Refusal> {
    answer.or_else(|refusal| refused(framing.protocol, framing.sequence, &refusal).ok_or(refusal))
}

fn named(mut refusal: Refusal, id: &str) -> Refusal {
    refusal.request_id = bounded(id, MAX_ID_BYTES);
    refusal
}
