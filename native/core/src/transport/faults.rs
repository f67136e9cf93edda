//! Panics of handlers: caught at the edge, counted, and kept for the log that another thread writes.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Texts kept; further ones are only counted until these are taken.
const KEPT: usize = 32;

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic was caught, counted and kept.
#[derive(Debug, PartialEq)]
pub(super) struct Panicked;

/// Faults so far.
#[derive(Debug)]
pub(super) struct Faults {
    count: AtomicU64,
    texts: (Sender<String>, Receiver<String>),
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            texts: bounded(KEPT),
        }
    }
}

impl Faults {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The texts since the last call.
    pub(super) fn take(&self) -> Vec<String> {
        self.texts.1.try_iter().collect()
    }

    /// Runs `call`; a panic in it is a fault.
    pub(super) fn catch<T>(&self, call: impl FnOnce() -> T) -> Result<T, Panicked> {
        // What the call leaves half done is the service's: it answers for its own state after a panic.
        catch_unwind(AssertUnwindSafe(call)).map_err(|payload| self.record(payload.as_ref()))
    }

    /// Runs `future` to its end; a panic in it is a fault and ends it.
    pub(super) async fn catch_in<F: Future>(&self, future: F) -> Result<F::Output, Panicked> {
        let mut future = pin!(future);
        poll_fn(|cx| match self.catch(|| future.as_mut().poll(cx)) {
            Ok(polled) => polled.map(Ok),
            Err(panicked) => std::task::Poll::Ready(Err(panicked)),
        })
        .await
    }

    fn record(&self, payload: &(dyn Any + Send)) -> Panicked {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut text = LAST.take();
        if text.is_empty() {
            text = text_of(payload).to_owned();
        }
        // Full means that nobody asks: the count says so.
        let _ = self.texts.0.try_send(text);
        Panicked
    }
}

/// Makes panics of the calling thread leave their text and place for `Faults` instead of writing to stderr, which
/// may block. Other threads keep the hook that there was.
pub(super) fn keep_panics_of_this_thread() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_WORKER.get() {
                LAST.set(info.to_string());
            } else {
                others(info);
            }
        }));
    });
    IS_WORKER.set(true);
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_its_text_and_place_kept() {
        let faults = Faults::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                keep_panics_of_this_thread();
                assert_eq!(
                    faults.catch(|| panic!("no such {}", "thing")),
                    Err::<(), _>(Panicked)
                );
            });
        });
        let texts = faults.take();
        assert_eq!((faults.count(), texts.len()), (1, 1));
        assert!(
            texts[0].contains("no such thing") && texts[0].contains("faults.rs"),
            "{texts:?}"
        );
        assert!(faults.take().is_empty());
    }

    #[test]
    fn texts_are_bounded_and_the_count_is_not() {
        let faults = Faults::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                keep_panics_of_this_thread();
                for _ in 0..100 {
                    assert!(faults.catch(|| panic!("again")).is_err());
                }
            });
        });
        assert_eq!((faults.count(), faults.take().len()), (100, KEPT));
    }
}
