//! The sessions of one model file, one for each seat, and what they cost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::call::Tensor;
use crate::reaper::Retired;
use crate::seat::{PerSeat, Seat};
use crate::session::{RuntimeFailure, Session};

/// What was measured of a version on this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Median time of one row.
    pub run_time_ns: u64,
    /// What its sessions take, all seats together.
    pub resident_bytes: u64,
    /// From the reading of the file to the last measurement.
    pub load_time: Duration,
}

/// The sessions of one model file. What holds one of these may keep tens of megabytes, and its end takes milliseconds:
/// only the reaper, or a control thread that has just made it, drops the last reference.
#[derive(Debug)]
pub struct Loaded {
    sessions: PerSeat<Option<Session>>,
    ns_per_value: f64,
    runs_inline: bool,
    pace: AtomicU64,
    figures: Figures,
}

/// The sessions of the smallest model take about as much; what is measured of one is mostly what others freed meanwhile.
const SMALLEST_BYTES: u64 = 1 << 20;

/// Of `Loaded::pace`: requests cost what was estimated.
const AS_ESTIMATED: u64 = 1 << 10;

impl Loaded {
    pub(crate) fn new(
        sessions: PerSeat<Option<Session>>,
        ns_per_value: f64,
        runs_inline: bool,
        figures: Figures,
    ) -> Self {
        Self {
            sessions,
            ns_per_value,
            runs_inline,
            pace: AtomicU64::new(AS_ESTIMATED),
            figures,
        }
    }

    /// Estimated cost of a request in nanoseconds, by each value that goes in: the run, and handling what goes in and
    /// comes out.
    pub fn ns_per_value(&self) -> f64 {
        self.ns_per_value
    }

    /// Whether workers have sessions; no request to a model that is slow for one value runs inline.
    pub fn runs_inline(&self) -> bool {
        self.runs_inline
    }

    /// An estimated cost, corrected by what requests of late took on the pool: many rows in one run take less than as
    /// many runs of one row do.
    pub fn paced(&self, cost_ns: f64) -> Duration {
        let pace = self.pace.load(Ordering::Relaxed) as f64 / AS_ESTIMATED as f64;
        // A conversion of floats keeps to the bounds of the integer.
        Duration::from_nanos((cost_ns * pace) as u64)
    }

    /// Learns what a request took that was estimated at `cost_ns`.
    pub fn observe(&self, cost_ns: f64, took: Duration) {
        let measured = (took.as_nanos() as f64 / cost_ns.max(1.0) * AS_ESTIMATED as f64) as u64;
        let before = self.pace.load(Ordering::Relaxed);
        // Two threads at once lose one of many observations, which is no matter.
        self.pace.store(
            (before - before / 8).saturating_add(measured / 8).max(1),
            Ordering::Relaxed,
        );
    }

    /// What was measured.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// About what one of the sessions takes.
    pub fn bytes_of_one(&self) -> u64 {
        let sessions = self.sessions.len().max(1) as u64;
        self.figures.resident_bytes / sessions
    }

    /// The session of this seat; a worker has none of a model that is too slow for any request to run inline.
    pub fn session<'a>(&'a self, seat: &'a mut Seat) -> Option<&'a mut Session> {
        self.sessions.at(seat).as_mut()
    }

    /// Runs it before it is shared: for the golden rows.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RuntimeFailure> {
        let session = self.sessions.iter_mut().flatten().next();
        session
            .ok_or_else(|| RuntimeFailure("there are no seats".to_owned()))?
            .run(inputs)
    }
}

impl Retired for Loaded {
    fn resident_bytes(&self) -> u64 {
        self.figures.resident_bytes.max(SMALLEST_BYTES)
    }
}
