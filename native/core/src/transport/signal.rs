//! A word to all that waits on one worker, such as that it drains, heard without asking for each message.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

/// Whether something has begun on this worker, and whom to wake when it does. For one thread.
#[derive(Debug, Default)]
pub(super) struct Signal {
    has_begun: Cell<bool>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, Waker>>,
}

impl Signal {
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

/// One task's ear for a signal.
#[derive(Debug)]
pub(super) struct Listening {
    signal: Rc<Signal>,
    key: Option<u64>,
}

impl Listening {
    pub(super) fn new(signal: &Rc<Signal>) -> Self {
        Self {
            signal: Rc::clone(signal),
            key: None,
        }
    }

    /// Whether it has begun; where not, the task of `cx` is woken when it does. A task registers once, since
    /// the waker of a task stays the same.
    pub(super) fn poll_begun(&mut self, cx: &Context<'_>) -> bool {
        if self.signal.has_begun() {
            return true;
        }
        if self.key.is_none() {
            let key = self.signal.next.get();
            self.signal.next.set(key + 1);
            self.signal.waiting.borrow_mut().insert(key, cx.waker().clone());
            self.key = Some(key);
        }
        false
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.signal.waiting.borrow_mut().remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_forgotten_when_it_ends() {
        let signal = Rc::new(Signal::default());
        let mut listening = Listening::new(&signal);
        assert!(!listening.poll_begun(&Context::from_waker(Waker::noop())));
        assert_eq!(signal.waiting.borrow().len(), 1);
        drop(listening);
        assert!(signal.waiting.borrow().is_empty());
        signal.begin();
        assert!(Listening::new(&signal).poll_begun(&Context::from_waker(Waker::noop())));
    }
}
