//! The counts of every version of the plan; those that left it are folded into their model's after some minutes, and
//! sooner where many left it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::counters::{Counts, Identity, Tallies};
use crate::plan::Role;

/// Longer than scrapes are apart and than any request runs: a scraper has seen the last value of each series before
/// it goes.
pub const FOLD_AFTER: Duration = Duration::from_secs(300);
/// How many of one model may wait for that, each in one role: more are folded at once, oldest first, so that changes
/// in quick succession hold no more memory than slow ones.
pub const KEPT_APART: usize = 16;

/// Every tally that may still be written to, and the total of the others by model. Used by one control thread at a
/// time; the threads that write hold their tallies by themselves.
#[derive(Debug)]
pub struct Ledger {
    workers: usize,
    tallies: BTreeMap<Identity, Arc<Tallies>>,
    left: BTreeMap<Identity, Instant>,
    folded: BTreeMap<String, Counts>,
}

/// A copy of all counts of versions.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Of each version of the plan, and of those that left it some minutes ago at most.
    pub versions: Vec<(Identity, Counts)>,
    /// Of all that left it before, by model.
    pub folded: BTreeMap<String, Counts>,
}

impl Ledger {
    /// Nothing counted yet.
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            tallies: BTreeMap::new(),
            left: BTreeMap::new(),
            folded: BTreeMap::new(),
        }
    }

    /// The tallies to write to, the same ones until they are folded. A shadow has one thread.
    pub fn of(&mut self, identity: &Identity) -> Arc<Tallies> {
        let threads = if identity.role == Role::Shadow {
            1
        } else {
            self.workers
        };
        Arc::clone(
            self.tallies
                .entry(identity.clone())
                .or_insert_with(|| Arc::new(Tallies::new(threads))),
        )
    }

    /// Says which are in the plan from now on; the time of the others begins, or goes on.
    pub fn keep(&mut self, planned: &BTreeSet<Identity>, now: Instant) {
        for identity in self.tallies.keys() {
            if planned.contains(identity) {
                self.left.remove(identity);
            } else {
                self.left.entry(identity.clone()).or_insert(now);
            }
        }
        self.fold(now);
    }

    /// What one version has done for clients, in every such role that is counted apart; None where there is none.
    pub fn of_version(&self, model: &str, version: &str) -> Option<Counts> {
        let is_asked = |identity: &Identity| {
            identity.model == model && identity.version == version && identity.role != Role::Shadow
        };
        let roles = self.tallies.iter().filter(|(identity, _)| is_asked(identity));
        roles.map(|(_, tallies)| tallies.sum()).reduce(|mut sum, counts| {
            sum.merge(&counts);
            sum
        })
    }

    /// What is counted apart, and the totals of what is not any more.
    pub fn read(&mut self, now: Instant) -> Sums {
        self.fold(now);
        Sums {
            versions: self
                .tallies
                .iter()
                .map(|(identity, tallies)| (identity.clone(), tallies.sum()))
                .collect(),
            folded: self.folded.clone(),
        }
    }

    /// Only what no plan holds any more: nothing is counted after it was folded.
    fn fold(&mut self, now: Instant) {
        let mut newest_first: Vec<(&Identity, &Instant)> = self.left.iter().collect();
        newest_first.sort_by_key(|(_, left)| std::cmp::Reverse(**left));
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let due = newest_first.into_iter().filter(|(identity, left)| {
            let newer = seen.entry(&identity.model).or_default();
            *newer += 1;
            (*newer > KEPT_APART || now.saturating_duration_since(**left) >= FOLD_AFTER)
                && self
                    .tallies
                    .get(*identity)
                    .is_none_or(|tallies| Arc::strong_count(tallies) == 1)
        });
        for identity in due.map(|(identity, _)| identity.clone()).collect::<Vec<_>>() {
            self.left.remove(&identity);
            let gone = self.tallies.remove(&identity);
            // What a shadow did is no part of what the model did.
            if let Some(gone) = gone.filter(|_| identity.role != Role::Shadow) {
                self.folded.entry(identity.model).or_default().merge(&gone.sum());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Durations;

    fn identity(version: &str) -> Identity {
        Identity {
            model: "demo".to_owned(),
            version: version.to_owned(),
            role: Role::Stable,
        }
    }

    #[test]
    fn what_left_the_plan_is_folded_without_loss() {
        let (mut ledger, start) = (Ledger::new(2), Instant::now());
        let planned = |versions: &[&str]| versions.iter().map(|version| identity(version)).collect();
        for version in ["1", "2"] {
            ledger.of(&identity(version)).of(0).count(
                &Durations {
                    run: 10,
                    ..Durations::default()
                },
                1,
                false,
                0,
            );
        }
        ledger.keep(&planned(&["1", "2"]), start);
        ledger.keep(&planned(&["2"]), start);
        assert_eq!(ledger.read(start + FOLD_AFTER / 2).versions.len(), 2, "not yet");
        let sums = ledger.read(start + FOLD_AFTER);
        assert_eq!(
            sums.versions
                .iter()
                .map(|(identity, _)| identity.version.as_str())
                .collect::<Vec<_>>(),
            ["2"]
        );
        assert_eq!(
            (sums.folded["demo"].answered, sums.folded["demo"].stages[6].sum_ns),
            (1, 10)
        );
        ledger.keep(&planned(&[]), start + FOLD_AFTER);
        let sums = ledger.read(start + FOLD_AFTER * 2);
        assert_eq!((sums.versions.len(), sums.folded["demo"].answered), (0, 2));
    }

    #[test]
    fn what_comes_back_in_time_goes_on() {
        let (mut ledger, start) = (Ledger::new(1), Instant::now());
        let planned = BTreeSet::from([identity("1")]);
        ledger
            .of(&identity("1"))
            .of(0)
            .count(&Durations::default(), 1, false, 0);
        ledger.keep(&BTreeSet::new(), start);
        ledger.keep(&planned, start + FOLD_AFTER / 2);
        let sums = ledger.read(start + FOLD_AFTER * 3);
        assert_eq!((sums.versions[0].1.answered, sums.folded.len()), (1, 0));
    }

    #[test]
    fn of_many_that_left_the_oldest_are_folded_at_once() {
        let (mut ledger, start) = (Ledger::new(1), Instant::now());
        let count = |ledger: &mut Ledger, identity: &Identity| {
            ledger
                .of(identity)
                .of(0)
                .count(&Durations::default(), 1, false, 0);
        };
        let other = Identity {
            model: "other".to_owned(),
            ..identity("1")
        };
        count(&mut ledger, &other);
        ledger.keep(&BTreeSet::new(), start);
        for number in 0..100 {
            let one = identity(&number.to_string());
            count(&mut ledger, &one);
            ledger.keep(&BTreeSet::from([one]), start + Duration::from_millis(number));
        }
        let sums = ledger.read(start + Duration::from_secs(1));
        let apart = |model: &str| {
            let versions = sums.versions.iter().filter(|(each, _)| each.model == model);
            versions.map(|(each, _)| each.version.clone()).collect::<Vec<_>>()
        };
        let expected: Vec<String> = (100 - KEPT_APART - 1..100)
            .map(|number| number.to_string())
            .collect();
        let mut found = apart("demo");
        found.sort_by_key(|version| version.parse::<usize>().unwrap());
        assert_eq!(found, expected);
        assert_eq!(apart("other"), ["1"], "another model's changes fold nothing");
        assert_eq!(sums.folded["demo"].answered as usize, 100 - KEPT_APART - 1);
    }

    #[test]
    fn a_version_is_summed_over_its_roles_but_as_a_shadow() {
        let mut ledger = Ledger::new(1);
        let previous = Identity {
            role: Role::Previous,
            ..identity("1")
        };
        let shadow = Identity {
            role: Role::Shadow,
            ..identity("1")
        };
        for each in [identity("1"), previous, identity("2"), shadow] {
            ledger.of(&each).of(0).count(&Durations::default(), 3, false, 0);
        }
        let found = ledger.of_version("demo", "1").unwrap();
        assert_eq!((found.answered, found.rows), (2, 6));
        assert_eq!(ledger.of_version("demo", "3"), None);
    }

    #[test]
    fn nothing_is_folded_while_a_request_may_still_count() {
        let (mut ledger, start) = (Ledger::new(1), Instant::now());
        let writing = ledger.of(&identity("1"));
        ledger.keep(&BTreeSet::new(), start);
        assert_eq!(ledger.read(start + FOLD_AFTER * 2).versions.len(), 1);
        writing.of(0).count(&Durations::default(), 1, false, 0);
        drop(writing);
        assert_eq!(ledger.read(start + FOLD_AFTER * 2).folded["demo"].answered, 1);
    }
}
