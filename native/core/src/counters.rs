//! What was done: counts with one writer each, copied out without stopping anyone.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::features;
use crate::histogram::{Histogram, StageCounts, add};
use crate::job::Outcome;
use crate::plan::{Policy, Role};
use crate::refusal::Reason;

/// Stages of one request, in order; the last spans them all.
pub const STAGES: [&str; 7] = [
    "wait",
    "decode",
    "validate_input",
    "run",
    "validate_output",
    "encode",
    "total",
];
/// One for each reason by its number, and the first for none.
const REASONS: usize = 14;

/// Durations of one answered request, by stage, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Durations {
    pub wait: u64,
    pub decode: u64,
    pub validate_input: u64,
    pub run: u64,
    pub validate_output: u64,
    pub encode: u64,
    /// Of a fallback: what the version before it took. No stage of its own, and part of the total.
    pub before: u64,
}

impl Durations {
    /// Each stage but the total, in order.
    pub fn stages(&self) -> [u64; 6] {
        let Self {
            wait,
            decode,
            validate_input,
            run,
            validate_output,
            encode,
            before: _,
        } = *self;
        [wait, decode, validate_input, run, validate_output, encode]
    }

    /// From the arrival at the pipeline to the encoded answer.
    pub fn total(&self) -> u64 {
        self.before + self.decode + self.validate_input + self.run + self.validate_output + self.encode
    }
}

/// What one version has done in one role on one worker, who alone writes.
#[derive(Debug, Default)]
pub struct Tally {
    stages: [Histogram; 7],
    answered: AtomicU64,
    rows: AtomicU64,
    slow: AtomicU64,
    errors: [AtomicU64; REASONS],
    violations: Grown<(String, Policy), AtomicU64>,
    last_answer_unix_ns: AtomicU64,
}

impl Tally {
    /// Counts an answer.
    pub fn count(&self, durations: &Durations, rows: u64, is_slow: bool, now_unix_ns: u64) {
        if !features::ON {
            return add(&self.answered, 1);
        }
        let total = std::iter::once(durations.total());
        for (stage, duration) in self
            .stages
            .iter()
            .zip(durations.stages().into_iter().chain(total))
        {
            stage.record(duration);
        }
        add(&self.answered, 1);
        add(&self.rows, rows);
        add(&self.slow, u64::from(is_slow));
        self.last_answer_unix_ns.store(now_unix_ns, Ordering::Relaxed);
    }

    /// Counts what became of a routed request; answers are slow over the budget, where it is not 0.
    pub fn count_outcome(&self, outcome: &Outcome, rows: u64, budget_ns: u64, now_unix_ns: i64) {
        let call = outcome.seen.call.as_ref();
        for broken in call.map_or(&[][..], |call| &call.findings.violations) {
            self.count_violations(&broken.rule, broken.policy, broken.times);
        }
        match &outcome.result {
            Ok((_, durations)) => {
                let is_slow = budget_ns != 0 && durations.total() > budget_ns;
                self.count(durations, rows, is_slow, u64::try_from(now_unix_ns).unwrap_or(0));
            }
            Err(refusal) => self.count_error(refusal.reason),
        }
    }

    /// Counts a refusal after routing.
    pub fn count_error(&self, reason: Option<Reason>) {
        add(&self.errors[slot(reason)], 1);
    }

    /// Counts broken rules, also of a request that is then refused.
    pub fn count_violations(&self, rule: &str, policy: Policy, times: u64) {
        let is_it = |key: &(String, Policy)| key.1 == policy && key.0 == rule;
        add(
            self.violations
                .find_or_add(is_it, || ((rule.to_owned(), policy), AtomicU64::new(0))),
            times,
        );
    }

    /// Adds these counts to a copy.
    pub fn add_to(&self, total: &mut Counts) {
        for (stage, sum) in self.stages.iter().zip(&mut total.stages) {
            stage.add_to(sum);
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        total.answered += read(&self.answered);
        total.rows += read(&self.rows);
        total.slow += read(&self.slow);
        for (reason, count) in reasons(&self.errors) {
            *total.errors.entry(reason).or_default() += count;
        }
        for ((rule, policy), count) in self.violations.iter() {
            let key = (rule.clone(), policy_name(*policy));
            *total.rule_violations.entry(key).or_default() += read(count);
        }
        total.last_answer_unix_ns = total.last_answer_unix_ns.max(read(&self.last_answer_unix_ns));
    }
}

/// Counts of a version or of several, copied out; as `VersionCounters` and `ModelCounters` of server/engine/base.py.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counts {
    pub stages: [StageCounts; 7],
    pub answered: u64,
    pub rows: u64,
    pub slow: u64,
    pub errors: BTreeMap<Option<Reason>, u64>,
    pub rule_violations: BTreeMap<(String, &'static str), u64>,
    pub last_answer_unix_ns: u64,
    /// Copies for a shadow that found no room.
    pub dropped: u64,
}

impl Counts {
    /// Adds another copy.
    pub fn merge(&mut self, other: &Self) {
        for (sum, stage) in self.stages.iter_mut().zip(&other.stages) {
            sum.merge(stage);
        }
        self.answered += other.answered;
        self.rows += other.rows;
        self.slow += other.slow;
        for (reason, count) in &other.errors {
            *self.errors.entry(*reason).or_default() += count;
        }
        for (key, count) in &other.rule_violations {
            *self.rule_violations.entry(key.clone()).or_default() += count;
        }
        self.last_answer_unix_ns = self.last_answer_unix_ns.max(other.last_answer_unix_ns);
        self.dropped += other.dropped;
    }
}

/// What is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Identity {
    pub model: String,
    pub version: String,
    pub role: Role,
}

/// The tallies of one identity, one for each thread that counts it.
#[derive(Debug)]
pub struct Tallies {
    by_thread: Box<[Tally]>,
    dropped: AtomicU64,
}

impl Tallies {
    /// Nothing counted yet.
    pub fn new(threads: usize) -> Self {
        Self {
            by_thread: (0..threads).map(|_| Tally::default()).collect(),
            dropped: AtomicU64::new(0),
        }
    }

    /// The one that this thread writes to.
    pub fn of(&self, thread: usize) -> &Tally {
        &self.by_thread[thread]
    }

    /// Counts a copy for a shadow that found no room; from any thread.
    pub fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum over all threads.
    pub fn sum(&self) -> Counts {
        let mut total = Counts::default();
        for tally in &self.by_thread {
            tally.add_to(&mut total);
        }
        total.dropped = self.dropped.load(Ordering::Relaxed);
        total
    }
}

/// Refusals of one worker that reached no version, by model and reason.
#[derive(Debug, Default)]
pub struct Refusals {
    by_model: Grown<String, [AtomicU64; REASONS]>,
}

impl Refusals {
    /// Counts one. `model` is one that is or was known here, or empty: a client does not get to make labels.
    pub fn count(&self, model: &str, reason: Option<Reason>) {
        let counts = self
            .by_model
            .find_or_add(|name| name == model, || (model.to_owned(), Default::default()));
        add(&counts[slot(reason)], 1);
    }

    /// Adds these counts to a copy.
    pub fn add_to(&self, total: &mut BTreeMap<(String, Option<Reason>), u64>) {
        for (model, counts) in self.by_model.iter() {
            for (reason, count) in reasons(counts) {
                *total.entry((model.clone(), reason)).or_default() += count;
            }
        }
    }
}

/// The policy as the manifest names it.
pub fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Reject => "reject",
        Policy::Clip => "clip",
        Policy::Flag => "flag",
        Policy::Fallback => "fallback",
    }
}

const BY_NUMBER: [Option<Reason>; REASONS] = [
    None,
    Some(Reason::Overloaded),
    Some(Reason::RateLimited),
    Some(Reason::Draining),
    Some(Reason::Loading),
    Some(Reason::Halted),
    Some(Reason::StaleInput),
    Some(Reason::OutputRule),
    Some(Reason::FeaturesChanged),
    Some(Reason::PinRefused),
    Some(Reason::InvalidInput),
    Some(Reason::NotFound),
    Some(Reason::Deadline),
    Some(Reason::Internal),
];

fn slot(reason: Option<Reason>) -> usize {
    reason.map_or(0, |reason| reason as usize)
}

fn reasons(counts: &[AtomicU64; REASONS]) -> impl Iterator<Item = (Option<Reason>, u64)> {
    let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
    BY_NUMBER.into_iter().zip(counts).filter(|(_, count)| *count > 0)
}

/// A map that only grows, by one writer, while others read it. For few keys: it is looked through from its beginning.
#[derive(Debug)]
struct Grown<K, V> {
    first: Link<K, V>,
}

type Link<K, V> = OnceLock<Box<Entry<K, V>>>;

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    next: Link<K, V>,
}

impl<K, V> Default for Grown<K, V> {
    fn default() -> Self {
        Self {
            first: OnceLock::new(),
        }
    }
}

impl<K, V> Grown<K, V> {
    fn find_or_add(&self, is_it: impl Fn(&K) -> bool, make: impl FnOnce() -> (K, V)) -> &V {
        let mut link = &self.first;
        while let Some(entry) = link.get() {
            if is_it(&entry.key) {
                return &entry.value;
            }
            link = &entry.next;
        }
        let entry = link.get_or_init(|| {
            let (key, value) = make();
            Box::new(Entry {
                key,
                value,
                next: OnceLock::new(),
            })
        });
        &entry.value
    }

    fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        std::iter::successors(self.first.get(), |entry| entry.next.get())
            .map(|entry| (&entry.key, &entry.value))
    }
}

impl<K, V> Drop for Grown<K, V> {
    // One after the other: dropping a link in a link takes as much stack as the map is long.
    fn drop(&mut self) {
        let mut next = self.first.take();
        while let Some(mut entry) = next {
            next = entry.next.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_slot_of_its_number() {
        for (number, reason) in BY_NUMBER.iter().enumerate() {
            assert_eq!(slot(*reason), number);
        }
    }

    #[test]
    fn the_tallies_of_all_workers_add_up() {
        let tallies = Tallies::new(2);
        let durations = Durations {
            wait: 1,
            decode: 100,
            run: 1000,
            ..Durations::default()
        };
        tallies.of(0).count(&durations, 3, false, 7);
        tallies.of(1).count(&durations, 4, true, 5);
        tallies.of(1).count_error(Some(Reason::StaleInput));
        tallies.of(0).count_violations("bounds:rsi", Policy::Clip, 2);
        tallies.of(1).count_violations("bounds:rsi", Policy::Clip, 3);
        tallies.of(1).count_violations("bounds:rsi", Policy::Flag, 1);
        let sum = tallies.sum();
        assert_eq!(
            (sum.answered, sum.rows, sum.slow, sum.last_answer_unix_ns),
            (2, 7, 1, 7)
        );
        assert_eq!(
            sum.stages.clone().map(|stage| stage.sum_ns),
            [2, 200, 0, 2000, 0, 0, 2200]
        );
        assert_eq!(sum.errors, BTreeMap::from([(Some(Reason::StaleInput), 1)]));
        let key = |policy| ("bounds:rsi".to_owned(), policy);
        assert_eq!(
            sum.rule_violations,
            BTreeMap::from([(key("clip"), 5), (key("flag"), 1)])
        );
        let mut twice = sum.clone();
        twice.merge(&sum);
        assert_eq!((twice.answered, twice.rule_violations[&key("clip")]), (4, 10));
    }

    #[test]
    fn refusals_are_counted_by_model_and_reason() {
        let refusals = Refusals::default();
        refusals.count("", Some(Reason::NotFound));
        refusals.count("demo", Some(Reason::Halted));
        refusals.count("demo", Some(Reason::Halted));
        let mut total = BTreeMap::new();
        refusals.add_to(&mut total);
        let key = |model: &str, reason| (model.to_owned(), Some(reason));
        assert_eq!(
            total,
            BTreeMap::from([(key("", Reason::NotFound), 1), (key("demo", Reason::Halted), 2)])
        );
    }

    #[test]
    fn a_long_map_ends_without_a_deep_stack() {
        let map = Grown::default();
        let mut link = &map.first;
        for key in 0..1_000_000_u32 {
            link = &link
                .get_or_init(|| {
                    Box::new(Entry {
                        key,
                        value: (),
                        next: OnceLock::new(),
                    })
                })
                .next;
        }
        drop(map);
    }
}
