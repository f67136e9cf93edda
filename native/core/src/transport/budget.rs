//! What clients make the server hold, in unfinished messages and in answers that they do not read: one bound for all.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::reply::Ending;

/// The bytes that are held on behalf of clients, over all workers, as one of them sees it.
#[derive(Debug)]
pub(super) struct Budget {
    held: Arc<AtomicUsize>,
    max_bytes: usize,
}

impl Budget {
    /// `held` counts for all workers.
    pub(super) fn new(held: &Arc<AtomicUsize>, max_bytes: usize) -> Rc<Self> {
        Rc::new(Self {
            held: Arc::clone(held),
            max_bytes,
        })
    }
}

/// One holder's share, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Held {
    /// Holds nothing yet.
    pub(super) fn new(budget: &Rc<Budget>) -> Self {
        Self {
            budget: Rc::clone(budget),
            bytes: 0,
        }
    }

    /// Holds so many bytes from now on, instead of what it held; refused where that is more than there is room for.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Ending> {
        if bytes < self.bytes {
            self.budget.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        } else if bytes > self.bytes {
            let more = bytes - self.bytes;
            let held = self.budget.held.fetch_add(more, Ordering::Relaxed);
            if held + more > self.budget.max_bytes {
                self.budget.held.fetch_sub(more, Ordering::Relaxed);
                return Err(Ending::Status(
                    8,
                    "too much is held for messages that are not whole and answers that are not read",
                ));
            }
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_holders_share_one_bound_and_give_back_what_they_held() {
        let held = Arc::new(AtomicUsize::new(0));
        let (budget, same) = (Budget::new(&held, 100), Budget::new(&held, 100));
        let (mut one, mut other) = (Held::new(&budget), Held::new(&same));
        assert_eq!(one.hold(60), Ok(()));
        assert!(other.hold(41).is_err());
        assert_eq!(other.hold(40), Ok(()));
        assert_eq!(one.hold(10), Ok(()));
        assert_eq!(other.hold(90), Ok(()));
        assert!(one.hold(11).is_err());
        drop(other);
        assert_eq!(one.hold(100), Ok(()));
        drop(one);
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }
}
