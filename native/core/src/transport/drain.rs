//! The word that a worker drains: what waits on that worker hears it without asking for each message.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

/// Whether this worker drains, and whom to wake when it begins to. For one thread.
#[derive(Debug, Default)]
pub(super) struct Drain {
    has_begun: Cell<bool>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, Waker>>,
}

impl Drain {
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Begins, for good, and wakes all who listen.
    pub(super) fn begin(&self) {
        self.has_begun.set(true);
        for (_, waker) in self.waiting.borrow_mut().drain() {
            waker.wake();
        }
    }
}

/// One task's ear for the drain.
#[derive(Debug)]
pub(super) struct Listening {
    drain: Rc<Drain>,
    key: Option<u64>,
}

impl Listening {
    pub(super) fn new(drain: &Rc<Drain>) -> Self {
        Self {
            drain: Rc::clone(drain),
            key: None,
        }
    }

    /// Whether the drain has begun; where not, the task of `cx` is woken when it does. A task registers once, since
    /// the waker of a task stays the same.
    pub(super) fn poll_begun(&mut self, cx: &Context<'_>) -> bool {
        if self.drain.has_begun() {
            return true;
        }
        if self.key.is_none() {
            let key = self.drain.next.get();
            self.drain.next.set(key + 1);
            self.drain.waiting.borrow_mut().insert(key, cx.waker().clone());
            self.key = Some(key);
        }
        false
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.drain.waiting.borrow_mut().remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_forgotten_when_it_ends() {
        let drain = Rc::new(Drain::default());
        let mut listening = Listening::new(&drain);
        assert!(!listening.poll_begun(&Context::from_waker(Waker::noop())));
        assert_eq!(drain.waiting.borrow().len(), 1);
        drop(listening);
        assert!(drain.waiting.borrow().is_empty());
        drain.begin();
        assert!(Listening::new(&drain).poll_begun(&Context::from_waker(Waker::noop())));
    }
}
