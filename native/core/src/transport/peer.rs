//! One client's connection as its calls see it.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::lifetime::Activity;
use super::meter::Meter;
use super::reply::Ending;
use super::worker::Worker;
use crate::refusal::Refusal;
use crate::service::{Arrival, Client, Refused};

/// What the calls of one connection share.
pub(super) struct Peer {
    pub(super) worker: Rc<Worker>,
    pub(super) meter: Rc<Meter>,
    client: Option<Arc<Client>>,
    identity: Rc<str>,
    open_calls: Cell<usize>,
    last_call: Cell<Instant>,
}

impl Peer {
    pub(super) fn new(
        worker: Rc<Worker>,
        meter: Rc<Meter>,
        client: Option<Arc<Client>>,
        identity: Rc<str>,
    ) -> Rc<Self> {
        let now = worker.turn.began();
        Rc::new(Self {
            worker,
            meter,
            client,
            identity,
            open_calls: Cell::new(0),
            last_call: Cell::new(now),
        })
    }

    pub(super) fn arrival(&self, arrived: Instant, deadline: Option<Instant>) -> Arrival {
        Arrival {
            arrived,
            deadline,
            client: self.client.clone(),
            identity: Rc::clone(&self.identity),
        }
    }

    /// Notes that a call began or ended.
    pub(super) fn note_call(&self) {
        self.last_call.set(self.worker.turn.began());
    }

    pub(super) fn activity(&self) -> Activity {
        Activity {
            has_settings: self.meter.has_settings(),
            last_frame: self.meter.last_frame(),
            open_calls: self.open_calls.get(),
            last_call: self.last_call.get(),
        }
    }

    /// Runs what is left of a call beside the connection.
    pub(super) fn spawn(self: &Rc<Self>, call: impl Future<Output = ()> + 'static) {
        let open = OpenCall::new(self);
        tokio::task::spawn_local(async move {
            // A panic out here drops the stream, which resets it.
            let _ = open.0.worker.shared.faults.catch_in(call).await;
        });
    }

    /// Asks the service; a panic is answered as an internal error.
    pub(super) fn ask<T>(&self, call: impl FnOnce() -> T) -> Result<T, Ending> {
        self.worker.shared.faults.catch(call).map_err(|_| self.internal())
    }

    /// Tells the service that the answer which it gave is in line.
    pub(super) fn note_answered(&self) {
        // A panic is kept; the answer is on its way.
        let _kept = self.ask(|| self.worker.service.answered());
    }

    pub(super) fn internal(&self) -> Ending {
        Ending::Refused(self.worker.shared.internal.clone())
    }

    /// The ending for what the transport refuses.
    pub(super) fn refuse(&self, refused: Refused<'_>) -> Ending {
        self.ask(|| self.worker.service.refuse(refused))
            .map_or_else(|ending| ending, Ending::Refused)
    }
}

impl From<Refusal> for Ending {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A call that runs beside its connection, counted for as long as it does.
struct OpenCall(Rc<Peer>);

impl OpenCall {
    fn new(peer: &Rc<Peer>) -> Self {
        peer.open_calls.set(peer.open_calls.get() + 1);
        peer.worker.begin_call();
        Self(Rc::clone(peer))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open_calls.set(self.0.open_calls.get() - 1);
        self.0.worker.end_call();
        self.0.note_call();
    }
}
