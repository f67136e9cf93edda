//! Log-linear histograms of durations, laid out as docs/formats/histogram.md says, with one writer and any readers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of buckets.
pub const BUCKETS: usize = 954;
const BOTTOM_NS: u64 = 64;

/// The index of the bucket that takes a duration.
pub fn bucket(duration_ns: u64) -> usize {
    if duration_ns < BOTTOM_NS {
        return 0;
    }
    let shift = u64::from(58 - duration_ns.leading_zeros());
    let index = (shift << 5) + (duration_ns >> shift) - 63;
    (index as usize).min(BUCKETS - 1)
}

/// Counts of one kind of duration. One thread writes; a reader may be one record behind.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

/// A copy of a histogram, or the sum of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageCounts {
    /// By bucket.
    pub counts: Vec<u64>,
    /// Sum of the durations, in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts one duration, in nanoseconds. By the one writer.
    pub fn record(&self, duration_ns: u64) {
        add(&self.counts[bucket(duration_ns)], 1);
        add(&self.sum_ns, duration_ns);
    }

    /// The sum of the durations, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.load(Ordering::Relaxed)
    }

    /// Adds these counts to a copy.
    pub fn add_to(&self, total: &mut StageCounts) {
        for (sum, count) in total.counts.iter_mut().zip(&self.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
        total.sum_ns += self.sum_ns();
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Default for StageCounts {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            sum_ns: 0,
        }
    }
}

impl StageCounts {
    /// Adds another copy.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.sum_ns += other.sum_ns;
    }
}

/// Adds to a counter that only the calling thread writes: cheaper than an atomic addition.
pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documented_vectors_hold() {
        for (duration, index) in [
            (0, 0),
            (63, 0),
            (64, 1),
            (127, 32),
            (128, 33),
            (1000, 127),
            (1_000_000, 446),
            (60_129_542_144, 953),
        ] {
            assert_eq!(bucket(duration), index, "{duration}");
        }
        assert_eq!(bucket(u64::MAX), 953);
    }

    #[test]
    fn counts_and_sums_add_up() {
        let (one, other) = (Histogram::default(), Histogram::default());
        one.record(64);
        one.record(70);
        other.record(1_000_000);
        let mut total = StageCounts::default();
        one.add_to(&mut total);
        other.add_to(&mut total);
        assert_eq!(
            (total.counts[1], total.counts[4], total.counts[446], total.sum_ns),
            (1, 1, 1, 1_000_134)
        );
        let mut twice = total.clone();
        twice.merge(&total);
        assert_eq!((twice.counts[1], twice.sum_ns), (2, 2_000_268));
    }

    proptest! {
        /// The lower edge as the document gives it, against the arithmetic of `bucket`.
        #[test]
        fn a_duration_is_between_its_buckets_edges(duration in 64_u64..(56 << 30)) {
            let edge = |index: usize| {
                let (octave, step) = ((index - 1) / 32, (index - 1) % 32);
                ((32 + step) as u64) << (octave + 1)
            };
            let index = bucket(duration);
            prop_assert!(edge(index) <= duration && duration < edge(index + 1), "{} in {}", duration, index);
        }
    }
}
