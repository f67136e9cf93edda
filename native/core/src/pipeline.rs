//! The way of one request: admit, route, then its job on the worker or on the pool; apart from how it arrived.

mod after;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use self::after::{Routed, named};
use crate::decide::{Decided, decide};
use crate::decode::{self, Parsed};
use crate::describe;
use crate::drawn::Draw;
use crate::encode::{Framing, refused};
use crate::fallback::{Outcomes, Ran};
use crate::faults::panic_text;
use crate::in_flight::InFlight;
use crate::job::{Job, Outcome, Purpose, Timing};
use crate::refusal::Refusal;
use crate::refuse;
use crate::seat::Seat;
use crate::service::{Answering, Arrival, Describe, Protocol, Refused, Service};
use crate::shadow::Copied;
use crate::shared::Shared;
use crate::tap::{Asked, Tap, Way, Why};

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
    /// Of the request whose answer was given last, until that is in line.
    copied: RefCell<Option<Copied>>,
}

/// A request until a thread of the pool takes it, or its worker gives it up: what a client took back is not kept until
/// its turn comes, since nothing bounds how much of that there is.
struct Queued(Arc<Mutex<Option<Parsed>>>);

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
                copied: RefCell::new(None),
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

    fn answered(&self) {
        self.worker.hand_over();
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
        let drawn_id = self.draw.borrow_mut().draw();
        let drawn = drawn_id.as_str();
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
            Ok((routed.serving, why, way))
        });
        let (serving, why, way) = match routed {
            Ok(routed) => routed,
            Err(refusal) => {
                self.count_unrouted(&installed, request.model(), &refusal);
                let refusal = named(refusal, request.request_id(drawn));
                return Answering::Now(within(framing, Err(refusal)));
            }
        };
        let mut routed = Routed {
            installed: &installed,
            serving,
            drawn: drawn_id,
            way,
            sample: self.sample(&installed, serving, why, &request, drawn),
            started,
            rows: 0,
        };
        let timing = Timing {
            arrived: arrival.arrived,
            started,
            deadline: arrival.deadline,
        };
        let fallback = installed.fallback_of(serving);
        let decided = match decide(shared, serving, fallback, &request, timing) {
            Ok(decided) => decided,
            Err(refusal) => {
                let asked = way.map(|way| Asked::new(&request, drawn, way));
                let outcome = Outcome::refused(refusal).into();
                let answer = self.finish(routed, Some(&request), request.request_id(drawn), asked, outcome);
                return Answering::Now(within(framing, answer));
            }
        };
        routed.rows = decided.shape.rows;
        let purpose = routed.purpose();
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
                purpose,
            };
            let fault = |text| shared.faults.keep(text);
            let seat = &mut self.seat.borrow_mut();
            let outcome = job.run(serving.runtime.loaded.session(seat), fault);
            let fallback = fallback.and_then(|fallback| {
                let ran = Ran {
                    request: &request,
                    drawn,
                    framing,
                    timing,
                    outcome: &outcome,
                };
                let session = fallback.runtime.loaded.session(seat);
                ran.fall_back(fallback, session, false, texts, fault)
            });
            let outcomes = Outcomes {
                routed: outcome,
                fallback,
                request: None,
            };
            let asked = way.map(|way| Asked::new(&request, drawn, way));
            let answer = self.finish(routed, Some(&request), request.request_id(drawn), asked, outcomes);
            return Answering::Now(within(framing, answer));
        }
        let id = request.request_id(drawn).to_owned();
        let kept = way.map(|way| Asked::new(&request, drawn, way).keep());
        request.shed(&serving.runtime.schema);
        let queued = Queued(Arc::new(Mutex::new(Some(request))));
        let given_up = Queued(Arc::clone(&queued.0));
        let (place, sample, rows) = (serving.place, routed.sample, routed.rows);
        let queued = self.submit(queued, framing, routed, decided, purpose);
        let (worker, installed) = (Rc::clone(self), Arc::clone(&installed));
        Answering::Later(Box::pin(async move {
            let mut outcomes = match queued {
                // A sender that is gone without a word panicked, and the pool has kept why.
                Ok(outcomes) => outcomes
                    .await
                    .unwrap_or_else(|_| Outcome::refused(refuse::internal(&worker.shared.texts)).into()),
                Err(refusal) => Outcome::refused(refusal).into(),
            };
            let request = outcomes.request.take();
            let request = request.as_deref();
            let asked = kept.as_ref().map(|kept| kept.asked(request));
            let routed = Routed {
                installed: &installed,
                serving: installed.at(place),
                drawn: drawn_id,
                way,
                sample,
                started,
                rows,
            };
            let answer = worker.finish(routed, request, &id, asked, outcomes);
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

    /// Queues a request for the pool.
    fn submit(
        &self,
        queued: Queued,
        framing: Framing,
        routed: Routed<'_>,
        decided: Decided,
        purpose: Purpose,
    ) -> Result<oneshot::Receiver<Outcomes>, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let (serving, drawn) = (routed.serving, routed.drawn);
        let (shared, installed, place) = (
            Arc::clone(&self.shared),
            Arc::clone(routed.installed),
            serving.place,
        );
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
            let (texts, drawn) = (&shared.texts, drawn.as_str());
            let fault = |text| shared.faults.keep(text);
            let job = Job {
                texts,
                serving,
                request: &mut request,
                shape: &shape,
                drawn,
                framing,
                timing,
                purpose,
            };
            let taken = Instant::now();
            let outcome = job.run_in_pool(serving.runtime.loaded.session(seat), submitted, fault);
            if outcome.result.is_ok() {
                serving.runtime.loaded.observe(cost_ns, taken.elapsed());
            }
            let fallback = installed.fallback_of(serving).and_then(|fallback| {
                let ran = Ran {
                    request: &request,
                    drawn,
                    framing,
                    timing,
                    outcome: &outcome,
                };
                let session = fallback.runtime.loaded.session(seat);
                ran.fall_back(fallback, session, true, texts, fault)
            });
            let _given_up = sender.send(Outcomes {
                routed: outcome,
                fallback,
                request: Some(Box::new(request)),
            });
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
