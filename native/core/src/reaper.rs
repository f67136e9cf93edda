//! Frees what is retired on a thread of its own: dropping a large session takes tens of milliseconds.
//!
//! Whoever retires something hands over a reference after it was unlinked, so that no new ones can be made but from
//! those that requests still hold. The reaper keeps its own until it is the only one: no request ever drops the last.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

const POLL: Duration = Duration::from_millis(20);
/// What is worth asking the allocator to return pages for, which makes it lock its arenas one by one: freed at once or
/// little by little.
const LARGE_BYTES: u64 = 8 << 20;

/// Something that may be long in dropping.
pub trait Retired: Send + Sync {
    /// About how much memory comes free when it goes.
    fn resident_bytes(&self) -> u64;
}

/// The thread, until this is dropped.
#[derive(Debug)]
pub struct Reaper {
    sender: Option<Arc<Sender<Arc<dyn Retired>>>>,
    thread: Option<JoinHandle<()>>,
}

/// The way to a reaper, for another thread; keeps it from nothing.
#[derive(Clone, Debug)]
pub struct Retiring(Weak<Sender<Arc<dyn Retired>>>);

impl Reaper {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver) = unbounded();
        let thread = std::thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || reap(&receiver))?;
        Ok(Self {
            sender: Some(Arc::new(sender)),
            thread: Some(thread),
        })
    }

    /// Takes what is not linked anywhere any more. Never waits.
    pub fn retire(&self, retired: Arc<dyn Retired>) {
        if let Some(sender) = &self.sender {
            // The thread ends after this sender does.
            let _sent = sender.send(retired);
        }
    }
}

impl Reaper {
    /// For a thread that retires what is its own.
    pub fn retiring(&self) -> Retiring {
        Retiring(self.sender.as_ref().map(Arc::downgrade).unwrap_or_default())
    }
}

impl Retiring {
    /// Takes what is not linked anywhere any more. Never waits. Where the reaper has ended it goes here.
    pub fn retire(&self, retired: Arc<dyn Retired>) {
        if let Some(sender) = self.0.upgrade() {
            let _sent = sender.send(retired);
        }
    }
}

impl Drop for Reaper {
    /// Ends the thread after one more look; what requests still hold then goes with the last of them.
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn reap(receiver: &Receiver<Arc<dyn Retired>>) {
    let mut held: Vec<Arc<dyn Retired>> = Vec::new();
    let mut freed_bytes = 0;
    loop {
        let wait = if held.is_empty() {
            Duration::from_secs(3600)
        } else {
            POLL
        };
        match receiver.recv_timeout(wait) {
            Ok(retired) => {
                held.push(retired);
                held.extend(receiver.try_iter());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                while drop_unshared(&mut held, &mut freed_bytes) {}
                return;
            }
        }
        while drop_unshared(&mut held, &mut freed_bytes) {}
        if freed_bytes >= LARGE_BYTES {
            trim();
            freed_bytes = 0;
        }
    }
}

/// Drops what nobody else holds; says whether anything went, since that may have held something else.
fn drop_unshared(held: &mut Vec<Arc<dyn Retired>>, freed_bytes: &mut u64) -> bool {
    let before = held.len();
    held.retain(|retired| {
        let is_shared = Arc::strong_count(retired) > 1;
        if !is_shared {
            *freed_bytes = freed_bytes.saturating_add(retired.resident_bytes());
        }
        is_shared
    });
    held.len() < before
}

/// Hands freed pages back to the system where the C library is glibc, which keeps them otherwise.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Probe {
        dropped_on: Sender<Option<String>>,
        _inner: Option<Arc<dyn Retired>>,
    }

    impl Retired for Probe {
        fn resident_bytes(&self) -> u64 {
            LARGE_BYTES
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            let _sent = self
                .dropped_on
                .send(std::thread::current().name().map(str::to_owned));
        }
    }

    #[test]
    fn the_last_reference_goes_on_the_reapers_thread() {
        let reaper = Reaper::start().unwrap();
        let (dropped_on, dropped) = unbounded();
        let probe = Arc::new(Probe {
            dropped_on,
            _inner: None,
        });
        let of_a_request = Arc::clone(&probe);
        reaper.retire(probe);
        assert_eq!(dropped.recv_timeout(POLL * 5), Err(RecvTimeoutError::Timeout));
        drop(of_a_request);
        assert_eq!(
            dropped.recv_timeout(Duration::from_secs(20)),
            Ok(Some("reaper".to_owned()))
        );
    }

    #[test]
    fn what_is_held_by_something_retired_goes_there_too() {
        let reaper = Reaper::start().unwrap();
        let (dropped_on, dropped) = unbounded();
        let inner: Arc<dyn Retired> = Arc::new(Probe {
            dropped_on: dropped_on.clone(),
            _inner: None,
        });
        let outer = Arc::new(Probe {
            dropped_on,
            _inner: Some(Arc::clone(&inner)),
        });
        reaper.retire(inner);
        reaper.retire(outer);
        for _ in 0..2 {
            assert_eq!(
                dropped.recv_timeout(Duration::from_secs(20)),
                Ok(Some("reaper".to_owned()))
            );
        }
    }

    #[test]
    fn stopping_frees_what_is_free() {
        let reaper = Reaper::start().unwrap();
        let (dropped_on, dropped) = unbounded();
        reaper.retire(Arc::new(Probe {
            dropped_on,
            _inner: None,
        }));
        drop(reaper);
        assert_eq!(dropped.try_recv(), Ok(Some("reaper".to_owned())));
    }
}
