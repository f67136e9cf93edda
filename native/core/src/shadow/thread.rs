//! The thread of shadows: runs copies one after the other, when nothing else runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Copied;
use super::copied::Shadowing;
use super::loader::Loader;
use super::priority;
use super::sessions::Sessions;
use crate::clock::unix_ns;
use crate::decode::{self, Parsed};
use crate::encode::Framing;
use crate::faults::panic_text;
use crate::job::{Job, Outcome, Purpose, Timing};
use crate::reaper::Retiring;
use crate::refuse;
use crate::shared::Shared;
use crate::tap::{Asked, Tap, Way, Why};

/// How often the queue is looked at while a plan has shadows; see `Shadows::wakes_at`.
const POLL: Duration = Duration::from_millis(10);
/// The same while none has: a request of a plan before may still come to its end.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// A copy that waited for longer is dropped: by then its plan may be gone for so long that its blocks are another's.
const OLDEST: Duration = Duration::from_secs(60);
/// Its own tally of a shadow's.
const TALLY: usize = 0;

struct Runner<'a> {
    shared: &'a Shared,
    sessions: Sessions,
    tap: Option<Tap>,
    /// Installs that the sessions fit.
    installs: u64,
    has_shadows: bool,
    /// Whether there may be sessions of plans before.
    has_leftovers: bool,
}

/// Runs until `Shadows::end`.
pub(super) fn run(shared: &Shared, loader: Loader, retiring: Retiring) {
    priority::lower_this_thread();
    let mut runner = Runner {
        shared,
        sessions: Sessions::new(loader, retiring),
        tap: None,
        installs: 0,
        has_shadows: false,
        has_leftovers: false,
    };
    while shared.shadows.is_on() {
        // What a copy borrows is its own, and what a session holds is written anew by every run.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| runner.look())) {
            shared.faults.tell(panic_text(payload.as_ref()));
        }
        std::thread::park_timeout(if runner.has_shadows { POLL } else { IDLE_POLL });
    }
    // What is still put in after this goes with the queue.
    while shared.shadows.queue.take().is_some() {}
    runner.sessions.clear();
}

impl Runner<'_> {
    /// Runs everything that waits.
    fn look(&mut self) {
        loop {
            if self.is_behind() {
                self.fit();
            }
            if !self.shared.shadows.is_on() {
                return;
            }
            let copied = self.shared.shadows.queue.take();
            let copied = copied.as_ref().map(|taken| &taken.item);
            if self.has_leftovers {
                self.trim(copied);
            }
            let Some(copied) = copied else { return };
            self.pass(copied);
        }
    }

    /// Whether a plan was installed that the sessions were not made for.
    fn is_behind(&self) -> bool {
        self.installs != self.shared.shadows.installs.load(Ordering::Acquire)
    }

    fn fit(&mut self) {
        // Before the plan is read, so that one which comes in between is looked at again.
        self.installs = self.shared.shadows.installs.load(Ordering::Acquire);
        self.has_shadows = self
            .sessions
            .add(&self.shared.installed.load(), &self.shared.faults);
        self.has_leftovers = true;
    }

    /// Gives up the sessions of plans before, once their copies are through: `next` is of the plan that is installed,
    /// or there is none.
    fn trim(&mut self, next: Option<&Copied>) {
        let installed = self.shared.installed.load();
        if next.is_none_or(|next| Arc::ptr_eq(&next.installed, &installed)) {
            self.sessions.keep_only(&installed);
            self.has_leftovers = false;
        }
    }

    fn pass(&mut self, copied: &Copied) {
        let Some(shadow) = copied.shadow() else { return };
        if copied.started.elapsed() > OLDEST {
            return copied.count_dropped();
        }
        let Some(mut request) = self.read(copied) else {
            return copied.count_dropped();
        };
        // A panic in it is the version's failure, as one of a request is.
        let passed = catch_unwind(AssertUnwindSafe(|| self.run_copy(copied, shadow, &mut request)));
        let passed = passed.unwrap_or_else(|payload| {
            self.shared.faults.tell(panic_text(payload.as_ref()));
            Some((0, Outcome::refused(refuse::internal(&self.shared.texts))))
        });
        let Some((rows, outcome)) = passed else {
            return copied.count_dropped();
        };
        if self.shared.shadows.is_on() {
            self.note(copied, shadow, &request, rows, &outcome);
        }
    }

    /// The request as it came, which was read once before.
    fn read(&self, copied: &Copied) -> Option<Parsed> {
        let texts = &self.shared.texts;
        let mut request = decode::parse(copied.protocol, copied.message.clone(), texts).ok()?;
        request.target(copied.drawn.as_str(), texts).ok()?;
        Some(request)
    }

    /// The rows, and what became of them; None where there is no session, which is no fault of the version.
    fn run_copy(
        &mut self,
        copied: &Copied,
        shadow: &Shadowing,
        request: &mut Parsed,
    ) -> Option<(u64, Outcome)> {
        let (texts, serving, started) = (&self.shared.texts, &shadow.serving, Instant::now());
        let session = self.sessions.of(&serving.runtime, &self.shared.faults)?;
        let shape = match request.shape(&serving.runtime.schema, texts) {
            Ok(shape) => shape,
            Err(refusal) => return Some((0, Outcome::refused(refusal))),
        };
        let job = Job {
            texts,
            serving,
            request,
            shape: &shape,
            drawn: copied.drawn.as_str(),
            framing: Framing {
                protocol: copied.protocol,
                sequence: 0,
                max_bytes: self.shared.bounds.max_answer_bytes,
            },
            timing: Timing {
                arrived: copied.started,
                started,
                deadline: None,
            },
            purpose: Purpose::Shadow {
                checked_unix_ns: copied.checked_unix_ns,
                edge_ns: shadow.edge_ns(),
            },
        };
        let outcome = job.run(Some(session), |text| self.shared.faults.tell(text));
        Some((shape.rows, outcome))
    }

    /// Counts and records what became of a copy, and in the same step counts what had become of the request.
    fn note(&mut self, copied: &Copied, shadow: &Shadowing, request: &Parsed, rows: u64, outcome: &Outcome) {
        let now_unix_ns = unix_ns();
        let tally = shadow.serving.tallies.of(TALLY);
        tally.count_outcome(outcome, rows, 0, now_unix_ns);
        if self.tap.is_none() {
            self.tap = self.shared.shadows.take_tap();
        }
        let Some(tap) = &mut self.tap else { return };
        let way = Way {
            why: Why::Shadow,
            key_bucket: copied.key_bucket,
        };
        let asked = Asked::new(request, copied.drawn.as_str(), way);
        tap.record(&shadow.serving, &asked, rows, outcome, now_unix_ns);
        if let Some((block, columns)) = copied.compared {
            tap.count_also(block, copied.key_bucket, columns);
        }
    }
}
