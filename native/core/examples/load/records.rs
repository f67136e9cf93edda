//! What became of each request, kept in memory and written once at the end.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

/// As an outcome where the transport failed.
pub const BROKEN: &str = "transport";

#[derive(Debug)]
pub struct Records {
    start: Instant,
    rows: RefCell<Vec<[u64; 4]>>,
    outcomes: RefCell<Vec<String>>,
}

impl Records {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            rows: RefCell::new(Vec::with_capacity(1 << 20)),
            outcomes: RefCell::default(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes one request that ends now; `outcome` is its status, and its reason where it has one.
    pub fn add(&self, intended: Duration, sent: Duration, outcome: &str) {
        let mut outcomes = self.outcomes.borrow_mut();
        let index = outcomes.iter().position(|known| known == outcome);
        let index = index.unwrap_or_else(|| {
            outcomes.push(outcome.to_owned());
            outcomes.len() - 1
        });
        let times = [intended, sent, self.elapsed()].map(|time| time.as_nanos() as u64);
        let [intended, sent, done] = times;
        self.rows.borrow_mut().push([intended, sent, done, index as u64]);
    }

    /// Writes the rows; the summary, as JSON on one line.
    pub fn write(&self, file: &Path) -> String {
        let rows = self.rows.borrow();
        let bytes: Vec<u8> = rows
            .iter()
            .flatten()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        std::fs::write(file, bytes).expect("the records' file");
        // Statuses are digits and reasons are words, so nothing needs escaping.
        let outcomes: Vec<String> = self
            .outcomes
            .borrow()
            .iter()
            .map(|outcome| format!("\"{}\"", outcome.replace(['"', '\\'], "?")))
            .collect();
        format!(
            "{{\"requests\": {}, \"outcomes\": [{}], \"cpu_s\": {:.6}}}",
            rows.len(),
            outcomes.join(", "),
            cpu_s()
        )
    }
}

/// Processor time of this program so far.
fn cpu_s() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
