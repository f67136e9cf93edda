//! Turns of a worker: how long it has run since it last polled its sockets, and how busy it is altogether.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What runs longer than this in one turn lets the sockets be polled before it goes on.
const LONG: Duration = Duration::from_micros(200);

/// The turn that a worker is in. Between two turns the runtime polls its sockets and timers.
#[derive(Debug)]
pub(super) struct Turn {
    began: Cell<Instant>,
    number: Cell<u64>,
}

impl Turn {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            began: Cell::new(Instant::now()),
            number: Cell::new(0),
        })
    }

    /// When this turn began: a clock that costs nothing, behind by what the turn has taken.
    pub(super) fn began(&self) -> Instant {
        self.began.get()
    }

    /// Counts turns, to tell one from the next.
    pub(super) fn number(&self) -> u64 {
        self.number.get()
    }

    /// Whether the sockets have waited for long at `now`. Who finds so yields once and goes on: with everyone doing
    /// that each gets one message a turn.
    pub(super) fn is_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began.get()) > LONG
    }
}

/// The root future of a worker: polled once a turn, it keeps the turn and the busy time.
pub(super) struct Turns<F> {
    inner: Pin<Box<F>>,
    turn: Rc<Turn>,
    busy_ns: Arc<AtomicU64>,
}

impl<F: Future> Turns<F> {
    pub(super) fn new(inner: F, turn: Rc<Turn>, busy_ns: Arc<AtomicU64>) -> Self {
        Self {
            inner: Box::pin(inner),
            turn,
            busy_ns,
        }
    }
}

impl<F: Future> Future for Turns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let start = Instant::now();
        self.turn.began.set(start);
        self.turn.number.set(self.turn.number.get() + 1);
        let polled = self.inner.as_mut().poll(cx);
        let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // The only writer, so this is an addition.
        self.busy_ns
            .store(self.busy_ns.load(Ordering::Relaxed) + spent, Ordering::Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_long_after_200_microseconds() {
        let turn = Turn::new();
        assert!(!turn.is_long(turn.began() + Duration::from_micros(200)));
        assert!(turn.is_long(turn.began() + Duration::from_micros(201)));
    }

    #[test]
    fn yielding_begins_a_turn_and_work_counts_as_busy() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let turn = Turn::new();
        let busy = Arc::new(AtomicU64::new(0));
        let seen = Rc::clone(&turn);
        let work = async move {
            let before = seen.number();
            tokio::task::yield_now().await;
            seen.number() - before
        };
        assert_eq!(runtime.block_on(Turns::new(work, turn, Arc::clone(&busy))), 1);
        assert!(busy.load(Ordering::Relaxed) > 0);
    }
}
