//! Unexpected failures, kept for the log: counted all, the last few with their text. Nobody waits for anybody.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

const KEPT: usize = 32;

/// Failures since the start. Any thread may add, the control plane takes.
#[derive(Debug)]
pub struct Faults {
    count: AtomicU64,
    sender: Sender<String>,
    receiver: Receiver<String>,
}

impl Default for Faults {
    fn default() -> Self {
        let (sender, receiver) = bounded(KEPT);
        Self {
            count: AtomicU64::new(0),
            sender,
            receiver,
        }
    }
}

impl Faults {
    /// Counts one and keeps its text; where there are many, the oldest goes.
    pub fn keep(&self, text: String) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.tell(text);
    }

    /// Keeps the text of one that cost no client anything, which is not counted.
    pub fn tell(&self, text: String) {
        let mut text = text;
        // Twice is enough where nobody else adds meanwhile; where many do, one text more or less is no matter.
        for _ in 0..2 {
            match self.sender.try_send(text) {
                Err(TrySendError::Full(back)) => {
                    let _oldest = self.receiver.try_recv();
                    text = back;
                }
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The texts since the last call.
    pub fn take(&self) -> Vec<String> {
        self.receiver.try_iter().take(KEPT).collect()
    }
}

/// What a panic said.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", said.unwrap_or("no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_last_are_kept() {
        let faults = Faults::default();
        for number in 0..40 {
            faults.keep(number.to_string());
        }
        let kept = faults.take();
        assert_eq!(
            (faults.count(), kept.len(), kept[0].as_str(), kept[31].as_str()),
            (40, 32, "8", "39")
        );
        assert!(faults.take().is_empty());
    }

    #[test]
    fn a_panic_tells_its_text() {
        let payload = std::panic::catch_unwind(|| panic!("row {}", 3)).expect_err("it panics");
        assert_eq!(panic_text(payload.as_ref()), "panic: row 3");
    }
}
