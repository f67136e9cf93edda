//! What became of the requests: latencies of those answered, outcomes of all, and how late the generator itself was.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Options;
use super::channel::Channel;
use super::outcome::Outcome;

/// An hour, in nanoseconds; what takes longer counts as that.
const MOST_NS: u64 = 3_600_000_000_000;
/// Significant decimal digits of latencies.
const DIGITS: u8 = 3;
/// Servers make up texts; beyond so many kinds of outcome there is `other`.
const MAX_OUTCOMES: usize = 64;

/// When a request was meant to be sent, and when the generator turned to it, since the start.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    intended: Duration,
    began: Duration,
}

/// One request, in nanoseconds since the start: meant, begun, handed to the connection, over; and the index of its
/// outcome in `Report::outcomes`.
pub type Sent = [u64; 5];

/// A distribution of durations in nanoseconds.
#[derive(Clone, Debug)]
pub struct Quantiles {
    histogram: Histogram<u64>,
    sum_ns: u128,
}

/// What happened in one piece of the measured time, by when answers came.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Since the measured time began.
    pub start: Duration,
    /// Requests answered, and those that were not.
    pub answered: u64,
    /// Every other outcome.
    pub failed: u64,
    /// Of those answered, in nanoseconds; 0 where there are none.
    pub p50_ns: u64,
    /// The 99th percentile.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Everything that is known at the end. Requests of the warm-up are only in `warmup_outcomes` and `times`.
#[derive(Clone, Debug)]
pub struct Report {
    /// Names and numbers of outcomes of measured requests, `Outcome::Answered` first.
    pub outcomes: Vec<(String, u64)>,
    /// The same names, of the warm-up.
    pub warmup_outcomes: Vec<u64>,
    /// Measured requests whose transport failed or whose server was silent.
    pub broken: u64,
    /// Measured requests that were not sent, since too many were unanswered.
    pub missed: u64,
    /// Requests answered within the measured time, which is `measured`.
    pub answered_in_time: u64,
    /// The measured time; shorter than asked for where the run was stopped.
    pub measured: Duration,
    /// Whether it was stopped.
    pub is_stopped: bool,
    /// Of those answered, from when they were meant to be sent to the whole answer.
    pub latency: Quantiles,
    /// Of those answered, from when they were sent.
    pub service_time: Quantiles,
    /// How late the generator turned to each request.
    pub lateness: Quantiles,
    /// Over time.
    pub intervals: Vec<Interval>,
    /// Of all requests, where they were to be kept.
    pub times: Vec<Sent>,
    /// Processor time of this thread, and the time that passed, from the first request to the last answer.
    pub cpu: Duration,
    /// As said.
    pub wall: Duration,
    /// The most requests in flight on one connection, and how many calls the server allows on one.
    pub most_in_flight: usize,
    /// None where it was never heard of.
    pub stream_limit: Option<usize>,
    /// Connections that were opened after the first ones.
    pub reconnections: u64,
}

pub(super) struct Records {
    start: Instant,
    start_cpu: Duration,
    warmup: Duration,
    interval: Duration,
    unanswered: Cell<usize>,
    /// When sending ended, and whether that was by hand.
    closed: Cell<Option<(Duration, bool)>>,
    inner: RefCell<Inner>,
}

struct Inner {
    outcomes: Vec<(Outcome, u64, u64)>,
    broken: u64,
    missed: u64,
    answered_in_time: u64,
    latency: Quantiles,
    service_time: Quantiles,
    lateness: Quantiles,
    current: Current,
    intervals: Vec<Interval>,
    times: Option<Vec<Sent>>,
}

/// The interval that is not over.
struct Current {
    number: u64,
    answered: Histogram<u64>,
    failed: u64,
}

impl Records {
    pub fn new(options: &Options) -> Self {
        let inner = Inner {
            outcomes: vec![(Outcome::Answered, 0, 0)],
            broken: 0,
            missed: 0,
            answered_in_time: 0,
            latency: Quantiles::new(),
            service_time: Quantiles::new(),
            lateness: Quantiles::new(),
            current: Current {
                number: 0,
                answered: histogram(),
                failed: 0,
            },
            intervals: Vec::new(),
            times: options.keeps_times.then(Vec::new),
        };
        Self {
            start: Instant::now(),
            start_cpu: thread_cpu(),
            warmup: options.warmup,
            interval: options.interval,
            unanswered: Cell::default(),
            closed: Cell::default(),
            inner: RefCell::new(inner),
        }
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Begins a request that is meant to be sent now.
    pub fn now(&self) -> Times {
        self.at(self.elapsed())
    }

    /// Begins a request that was meant to be sent at this time.
    pub fn at(&self, intended: Duration) -> Times {
        self.unanswered.set(self.unanswered.get() + 1);
        Times {
            intended,
            began: self.elapsed(),
        }
    }

    /// Requests begun and not over.
    pub fn unanswered(&self) -> usize {
        self.unanswered.get()
    }

    /// A request that was meant to be sent at this time was not.
    pub fn miss(&self, intended: Duration) {
        if intended >= self.warmup {
            self.inner.borrow_mut().missed += 1;
        }
    }

    /// Takes a request that is over now, and says whether it is the transport that failed.
    pub fn add(&self, times: Times, sent: Option<Duration>, outcome: Outcome) -> bool {
        let done = self.elapsed();
        self.unanswered.set(self.unanswered.get() - 1);
        let is_broken = outcome.is_broken();
        let mut inner = self.inner.borrow_mut();
        let is_measured = times.intended >= self.warmup;
        let index = inner.count(outcome, is_measured);
        let sent = sent.unwrap_or(times.began);
        if let Some(rows) = &mut inner.times {
            let [intended, began, sent, done] = [times.intended, times.began, sent, done].map(nanos);
            rows.push([intended, began, sent, done, index as u64]);
        }
        if is_measured {
            inner.broken += u64::from(is_broken);
            inner.lateness.record(times.began.saturating_sub(times.intended));
            let latency = done.saturating_sub(times.intended);
            let is_answered = index == 0;
            if is_answered {
                inner.answered_in_time += u64::from(self.closed.get().is_none());
                inner.latency.record(latency);
                inner.service_time.record(done.saturating_sub(sent));
            }
            let number = (done - self.warmup).as_nanos() / self.interval.as_nanos().max(1);
            inner.add_to_interval(number as u64, self.interval, is_answered.then_some(latency));
        }
        is_broken
    }

    /// Sending has ended.
    pub fn close(&self, end: Duration, is_stopped: bool) {
        self.closed
            .set(Some((self.elapsed().min(end.max(self.warmup)), is_stopped)));
    }

    /// What is unanswered stays so.
    pub fn abandon(&self) {
        for _ in 0..self.unanswered.take() {
            self.inner.borrow_mut().count(Outcome::Abandoned, true);
        }
    }

    pub fn report(&self, channels: &[Rc<Channel>]) -> Report {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.end_interval(self.interval);
        let (end, is_stopped) = self.closed.get().unwrap_or((self.elapsed(), false));
        let limit = channels.iter().map(|channel| channel.stream_limit.get()).min();
        let opened: u64 = channels.iter().map(|channel| channel.times_opened.get()).sum();
        let most = channels.iter().map(|channel| channel.most_in_flight.get()).max();
        Report {
            outcomes: inner
                .outcomes
                .iter()
                .map(|(outcome, count, _)| (outcome.to_string(), *count))
                .collect(),
            warmup_outcomes: inner.outcomes.iter().map(|(_, _, count)| *count).collect(),
            broken: inner.broken,
            missed: inner.missed,
            answered_in_time: inner.answered_in_time,
            measured: end.saturating_sub(self.warmup),
            is_stopped,
            latency: inner.latency.clone(),
            service_time: inner.service_time.clone(),
            lateness: inner.lateness.clone(),
            intervals: std::mem::take(&mut inner.intervals),
            times: inner.times.take().unwrap_or_default(),
            cpu: thread_cpu().saturating_sub(self.start_cpu),
            wall: self.elapsed(),
            most_in_flight: most.unwrap_or(0),
            stream_limit: limit.filter(|limit| *limit != usize::MAX),
            reconnections: opened.saturating_sub(channels.len() as u64),
        }
    }
}

impl Inner {
    /// Counts an outcome; its index.
    fn count(&mut self, outcome: Outcome, is_measured: bool) -> usize {
        let known = self.outcomes.iter().position(|(known, ..)| *known == outcome);
        let index = match known {
            Some(index) => index,
            None if self.outcomes.len() <= MAX_OUTCOMES => {
                self.outcomes.push((outcome, 0, 0));
                self.outcomes.len() - 1
            }
            None => {
                let other = Outcome::Broken("other".to_owned());
                match self.outcomes.iter().position(|(known, ..)| *known == other) {
                    Some(index) => index,
                    None => {
                        self.outcomes.push((other, 0, 0));
                        self.outcomes.len() - 1
                    }
                }
            }
        };
        let (_, measured, warmup) = &mut self.outcomes[index];
        *(if is_measured { measured } else { warmup }) += 1;
        index
    }

    /// Answers come in order of time, so that an interval is over when the next begins.
    fn add_to_interval(&mut self, number: u64, width: Duration, latency: Option<Duration>) {
        while self.current.number < number {
            self.end_interval(width);
        }
        match latency {
            Some(latency) => self.current.answered.saturating_record(nanos(latency)),
            None => self.current.failed += 1,
        }
    }

    fn end_interval(&mut self, width: Duration) {
        let Current {
            number,
            answered,
            failed,
        } = &mut self.current;
        self.intervals.push(Interval {
            start: width.saturating_mul(u32::try_from(*number).unwrap_or(u32::MAX)),
            answered: answered.len(),
            failed: *failed,
            p50_ns: answered.value_at_quantile(0.5),
            p99_ns: answered.value_at_quantile(0.99),
            max_ns: answered.max(),
        });
        answered.reset();
        (*number, *failed) = (*number + 1, 0);
    }
}

impl Quantiles {
    fn new() -> Self {
        Self {
            histogram: histogram(),
            sum_ns: 0,
        }
    }

    fn record(&mut self, duration: Duration) {
        self.histogram.saturating_record(nanos(duration));
        self.sum_ns += duration.as_nanos();
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The mean, exactly; 0 where there are none.
    pub fn mean_ns(&self) -> f64 {
        self.sum_ns as f64 / self.count().max(1) as f64
    }

    /// The least duration that so large a share of all does not exceed, to three significant digits.
    pub fn value_ns(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// The shortest and the longest, to three significant digits.
    pub fn extremes_ns(&self) -> (u64, u64) {
        (self.histogram.min(), self.histogram.max())
    }

    /// The upper edges of the buckets that hold any, and how many.
    pub fn buckets(&self) -> Vec<(u64, u64)> {
        self.histogram
            .iter_recorded()
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
            .collect()
    }
}

// The bounds are constants that the crate takes.
#[allow(clippy::expect_used)]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(MOST_NS, DIGITS).expect("bounds of a histogram")
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Processor time of this thread so far.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
