//! Tells a forked child from its parent. A connection belongs to the process that made it: two that read one socket
//! would each get half of the answers, and locks may be held for ever by threads that the child does not have.

use std::mem::ManuallyDrop;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);
static REGISTERED: Once = Once::new();

extern "C" fn count() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How many forks lie between this process and the one that first asked.
fn generation() -> u64 {
    REGISTERED.call_once(|| {
        // SAFETY: `count` touches one atomic, which is allowed in a child, and lives as long as the process, as the
        // extension is never unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(count)) };
    });
    FORKS.load(Ordering::Relaxed)
}

/// A value of the process that made it. In a forked child nobody reaches it, and it is never dropped.
#[derive(Debug)]
pub struct OfProcess<T> {
    value: ManuallyDrop<T>,
    generation: u64,
}

impl<T> OfProcess<T> {
    /// Of this process.
    pub fn new(value: T) -> Self {
        Self {
            generation: generation(),
            value: ManuallyDrop::new(value),
        }
    }

    /// The value; None in a child.
    pub fn get(&self) -> Option<&T> {
        (self.generation == FORKS.load(Ordering::Relaxed)).then_some(&*self.value)
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: this is the only drop, and nothing can reach the value afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
