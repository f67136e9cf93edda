//! One routed request from its message to its answer: read, check, run, check, encode, on whichever thread.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::call::{Call, Finding, Tensor};
use crate::clock::{thread_cpu_ns, unix_ns};
use crate::counters::Durations;
use crate::decode::{Parsed, Shape};
use crate::encode::Framing;
use crate::installed::Serving;
use crate::refusal::Refusal;
use crate::refuse;
use crate::session::Session;
use crate::texts::Texts;

/// When a request came, and until when it is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The call into the service.
    pub arrived: Instant,
    /// When the pipeline took it up.
    pub started: Instant,
    /// The earliest of all deadlines that it has.
    pub deadline: Option<Instant>,
}

/// What became of it. Counted and recorded by the worker that it came to, and nowhere else.
#[derive(Debug)]
pub struct Outcome {
    /// The answer with the time that each stage took, or the refusal.
    pub result: Result<(Bytes, Durations), Refusal>,
    /// What it had come to by then.
    pub seen: Seen,
}

/// What is known of a request when it is answered or refused.
#[derive(Debug, Default)]
pub struct Seen {
    /// As read; its findings hold what was broken, also of a request that is then refused.
    pub call: Option<Call>,
    /// What the model gave.
    pub outputs: Option<Vec<Tensor>>,
    /// Whether it broke a rule of an output.
    pub broke_output: bool,
    /// Its run, where it came to one.
    pub run: Option<Run>,
}

/// What is known of the run of a model.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What event times were held against.
    pub checked_unix_ns: i64,
    /// The earliest of all deadlines that the request had.
    pub deadline: Option<Instant>,
    /// What it took of the processor, where that was asked for: to the nanosecond where it is over the edge that it is
    /// held against, else at most.
    pub cpu_ns: Option<u64>,
    /// How often rules of inputs were broken before.
    broken_inputs: u64,
}

/// What a run is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// To answer.
    Answer {
        /// What the processor time of the run is to be held against, if anything.
        edge_ns: Option<u64>,
    },
    /// To answer in place of a version that broke a rule. The deadline is the request's as that version had it.
    Fallback {
        /// Which rule, and where.
        finding: Finding,
        /// When that version was through.
        begun: Instant,
    },
    /// To be compared with an answer that has left. It has no deadline, and no age that the answered one had not.
    Shadow {
        /// What event times of that one were held against.
        checked_unix_ns: i64,
        /// What the processor time of the run is to be held against, if anything.
        edge_ns: Option<u64>,
    },
}

impl Outcome {
    /// It did not run.
    pub fn refused(refusal: Refusal) -> Self {
        Self {
            result: Err(refusal),
            seen: Seen::default(),
        }
    }
}

/// Why a run ended early: the refusal, or what the log should know of it.
enum Stop {
    Refused(Refusal),
    Failed(String),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A request that is routed and whose shape is in order. It runs once.
#[derive(Debug)]
pub struct Job<'a> {
    /// The texts of refusals.
    pub texts: &'a Texts,
    /// The version that answers.
    pub serving: &'a Serving,
    /// What is asked.
    pub request: &'a mut Parsed,
    /// Its shape.
    pub shape: &'a Shape,
    /// The id where it brings none.
    pub drawn: &'a str,
    /// How the answer is put.
    pub framing: Framing,
    /// Its times.
    pub timing: Timing,
    /// What it is run for.
    pub purpose: Purpose,
}

impl Job<'_> {
    /// Runs it on this thread, whose session of the version it is given. `fault` takes what the log should know.
    pub fn run(self, session: Option<&mut Session>, fault: impl FnOnce(String)) -> Outcome {
        self.answer(session, Duration::ZERO, false, fault)
    }

    /// Runs it on a thread of the pool, where it was queued since `submitted`. A deadline that passes in the run counts.
    pub fn run_in_pool(
        self,
        session: Option<&mut Session>,
        submitted: Instant,
        fault: impl FnOnce(String),
    ) -> Outcome {
        let now = Instant::now();
        if self.timing.is_late(now) {
            return Outcome::refused(refuse::deadline(self.texts));
        }
        self.answer(session, now.saturating_duration_since(submitted), true, fault)
    }

    fn answer(
        self,
        session: Option<&mut Session>,
        queued: Duration,
        is_pooled: bool,
        fault: impl FnOnce(String),
    ) -> Outcome {
        let (texts, mut seen) = (self.texts, Seen::default());
        let result = self
            .read_and_run(session, queued, is_pooled, &mut seen)
            .map_err(|stop| match stop {
                Stop::Refused(refusal) => refusal,
                Stop::Failed(text) => {
                    fault(text);
                    refuse::internal(texts)
                }
            });
        Outcome { result, seen }
    }

    fn read_and_run(
        mut self,
        session: Option<&mut Session>,
        queued: Duration,
        is_pooled: bool,
        seen: &mut Seen,
    ) -> Result<(Bytes, Durations), Stop> {
        let runtime = &self.serving.runtime;
        let mut call = self
            .request
            .read(&runtime.schema, self.shape, self.drawn, self.texts)?;
        let decoded = Instant::now();
        match &mut self.purpose {
            Purpose::Answer { .. } => self.timing.limit(if call.timeout_us != 0 {
                call.timeout_us
            } else {
                runtime.version.limits.default_deadline_us
            }),
            Purpose::Fallback { finding, .. } => call.findings.put_first(finding.clone()),
            Purpose::Shadow { .. } => {}
        }
        let call = seen.call.insert(call);
        let answer = self.run_call(
            session,
            call,
            &mut seen.outputs,
            &mut seen.run,
            decoded,
            is_pooled,
        );
        seen.broke_output = seen
            .run
            .is_some_and(|run| call.findings.times_broken() > run.broken_inputs);
        let (answer, mut durations) = answer?;
        let queued = u64::try_from(queued.as_nanos()).unwrap_or(u64::MAX);
        // Time in the queue of the pool counts as running, which it waits for.
        durations.decode = durations.decode.saturating_sub(queued);
        durations.run = durations.run.saturating_add(queued);
        Ok((answer, durations))
    }

    /// `outputs` takes what the model gave, `run` what is known of that, both also where the request is then refused.
    fn run_call(
        &self,
        session: Option<&mut Session>,
        call: &mut Call,
        outputs: &mut Option<Vec<Tensor>>,
        run: &mut Option<Run>,
        decoded: Instant,
        is_pooled: bool,
    ) -> Result<(Bytes, Durations), Stop> {
        let (texts, timing, runtime) = (self.texts, &self.timing, &self.serving.runtime);
        let checked_unix_ns = match self.purpose {
            Purpose::Shadow { checked_unix_ns, .. } => checked_unix_ns,
            Purpose::Answer { .. } | Purpose::Fallback { .. } => unix_ns(),
        };
        runtime.input_checks.check(call, checked_unix_ns, texts)?;
        let checked = Instant::now();
        if timing.is_late(checked) {
            return Err(refuse::deadline(texts).into());
        }
        let run = run.insert(Run {
            checked_unix_ns,
            deadline: timing.deadline,
            cpu_ns: None,
            broken_inputs: call.findings.times_broken(),
        });
        let given = self.run_model(session, call, checked, run).map_err(|said| {
            Stop::Failed(format!(
                "{} version {}: {said}",
                runtime.version.model, runtime.version.version
            ))
        })?;
        let outputs = outputs.insert(given);
        let ran = Instant::now();
        if is_pooled && timing.is_late(ran) {
            return Err(refuse::deadline_ran(texts).into());
        }
        runtime
            .output_checks
            .check(outputs, call.rows, &mut call.findings, texts)?;
        let validated = Instant::now();
        let so_far = nanoseconds(timing.arrived, validated);
        let answer = self
            .serving
            .encoder
            .answer(self.framing, call, outputs, so_far, texts)?;
        let done = Instant::now();
        let begun = match self.purpose {
            Purpose::Fallback { begun, .. } => begun,
            Purpose::Answer { .. } | Purpose::Shadow { .. } => timing.started,
        };
        let durations = Durations {
            wait: nanoseconds(timing.arrived, timing.started),
            before: nanoseconds(timing.started, begun),
            decode: nanoseconds(begun, decoded),
            validate_input: nanoseconds(decoded, checked),
            run: nanoseconds(checked, ran),
            validate_output: nanoseconds(ran, validated),
            encode: nanoseconds(validated, done),
        };
        Ok((answer, durations))
    }

    fn run_model(
        &self,
        session: Option<&mut Session>,
        call: &Call,
        begun: Instant,
        run: &mut Run,
    ) -> Result<Vec<Tensor>, String> {
        let session = session.ok_or("this thread has no session")?;
        let edge_ns = match self.purpose {
            Purpose::Answer { edge_ns } | Purpose::Shadow { edge_ns, .. } => edge_ns,
            Purpose::Fallback { .. } => None,
        };
        let measured = edge_ns.map(|edge_ns| (edge_ns, thread_cpu_ns()));
        let given = session.run(&call.inputs);
        run.cpu_ns = measured.map(|(edge_ns, before_ns)| {
            // No thread runs for longer than the clock: what is below the edge needs no second call of the system.
            let took_ns = nanoseconds(begun, Instant::now());
            if took_ns <= edge_ns {
                took_ns
            } else {
                thread_cpu_ns().saturating_sub(before_ns)
            }
        });
        given.map_err(|failure| failure.to_string())
    }
}

impl Timing {
    /// Takes a time that the answer may need; 0 is none, and so is one that ends beyond all clocks.
    pub fn limit(&mut self, timeout_us: u64) {
        let own = self
            .arrived
            .checked_add(Duration::from_micros(timeout_us))
            .filter(|_| timeout_us != 0);
        self.deadline = match (self.deadline, own) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    /// Whether nobody wants the answer any more.
    pub fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now > deadline)
    }
}

/// Between two moments; 0 where they are the other way round.
pub fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}
