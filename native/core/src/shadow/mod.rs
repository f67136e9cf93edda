//! Shadows: versions that run copies of requests once these are answered, and answer nobody.
//!
//! A worker hands a copy over when its answer is in line to be sent; where the bounded `queue` is full it is dropped and
//! counted. One `thread` of the lowest priority runs the copies with sessions of its own, which no worker ever frees,
//! and counts what became of them beside what became of the requests. Nobody waits for it: neither a worker nor a
//! change of the plan nor the end of the server.

mod copied;
mod loader;
mod priority;
mod queue;
mod sessions;
mod thread;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

pub use self::copied::{Copied, Shadowing};
use self::loader::Loader;
use self::queue::Queue;
use crate::reaper::Retiring;
use crate::session::Library;
use crate::shared::Shared;
use crate::tap::Tap;

/// The way to the thread of shadows.
#[derive(Debug)]
pub struct Shadows {
    queue: Queue<Copied>,
    /// The queue is worth waking for when there are so many; else the thread looks now and then, since to wake it costs
    /// a worker as much as all else that it does for a copy.
    wakes_at: usize,
    thread: OnceLock<Thread>,
    /// Given once, taken once.
    tap: Mutex<Option<Tap>>,
    /// How often a plan was installed.
    installs: AtomicU64,
    is_over: AtomicBool,
}

impl Shadows {
    /// Without a thread, until `start`.
    pub(crate) fn new(max_queue: usize, max_bytes: usize) -> Self {
        Self {
            queue: Queue::new(max_queue, max_bytes),
            wakes_at: (max_queue / 2).max(1),
            thread: OnceLock::new(),
            tap: Mutex::new(None),
            installs: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Starts the thread of `shared`.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        library: &'static Library,
        retiring: Retiring,
    ) -> io::Result<()> {
        let (own, loader) = (Arc::clone(shared), Loader::start(library)?);
        let started = std::thread::Builder::new()
            .name("shadow".to_owned())
            .spawn(move || thread::run(&own, loader, retiring))?;
        // Set once: an engine starts its thread when it is made.
        let _set = shared.shadows.thread.set(started.thread().clone());
        Ok(())
    }

    /// Where the thread is to record from now on.
    pub(crate) fn set_tap(&self, tap: Tap) {
        *self.tap.lock().unwrap_or_else(PoisonError::into_inner) = Some(tap);
    }

    fn take_tap(&self) -> Option<Tap> {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether a copy is likely to have room.
    pub fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    /// Copies that wait, the one that runs included.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Takes a copy, or drops and counts it. Never waits.
    pub fn offer(&self, copied: Copied) {
        if !self.is_on() {
            return;
        }
        let Some(room) = self.queue.reserve(copied.size_bytes()) else {
            return copied.count_dropped();
        };
        if room.put(copied.apart()) == self.wakes_at {
            self.wake();
        }
    }

    /// Tells the thread that another plan is installed.
    pub(crate) fn note_install(&self) {
        self.installs.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// From now on nothing is taken, recorded or counted; the thread ends after what it is at.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.wake();
    }

    fn is_on(&self) -> bool {
        !self.is_over.load(Ordering::Acquire)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
