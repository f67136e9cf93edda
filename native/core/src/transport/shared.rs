//! What the threads of one transport share; requests read no more of it than pointers and flags.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::bounds::Bounds;
use super::clients::{Clients, Connected};
use super::faults::Faults;
use crate::refusal::Refusal;

/// State of one transport.
pub(super) struct Shared {
    pub(super) bounds: Bounds,
    pub(super) bounds_clients: bool,
    pub(super) internal: Refusal,
    pub(super) tls: ArcSwapOption<rustls::ServerConfig>,
    pub(super) faults: Faults,
    pub(super) held_bytes: Arc<AtomicUsize>,
    clients: Arc<Clients>,
    ready: watch::Sender<bool>,
    is_stopping: AtomicBool,
    is_dead: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        bounds: Bounds,
        bounds_clients: bool,
        internal: Refusal,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        Self {
            bounds,
            bounds_clients,
            internal,
            tls: ArcSwapOption::new(tls),
            faults: Faults::default(),
            held_bytes: Arc::default(),
            clients: Arc::default(),
            ready: watch::Sender::new(false),
            is_stopping: AtomicBool::new(false),
            is_dead: AtomicBool::new(false),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    pub(super) fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// A transport that lost a thread is never ready again.
    pub(super) fn set_ready(&self, is_ready: bool) {
        self.ready.send_if_modified(|ready| {
            let before = std::mem::replace(ready, is_ready && !self.is_dead());
            *ready != before
        });
    }

    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Acquire)
    }

    /// From now on threads end because they should. False where that was said before.
    pub(super) fn stop(&self) -> bool {
        !self.is_stopping.swap(true, Ordering::AcqRel)
    }

    /// Counts a connection of a client, where clients are bounded.
    pub(super) fn connect(&self, identity: &str) -> Option<Connected> {
        self.bounds_clients
            .then(|| self.clients.connect(identity.to_owned()))
    }

    /// How many clients are connected, where clients are bounded.
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Marks the transport dead where the calling thread ends before it should.
    pub(super) fn watch_thread(self: &Arc<Self>) -> ThreadWatch {
        ThreadWatch(Arc::clone(self))
    }
}

/// Held by a thread for as long as it serves.
pub(super) struct ThreadWatch(Arc<Shared>);

impl Drop for ThreadWatch {
    fn drop(&mut self) {
        if !self.0.is_stopping.load(Ordering::Acquire) {
            self.0.is_dead.store(true, Ordering::Release);
            self.0.set_ready(false);
        }
    }
}
