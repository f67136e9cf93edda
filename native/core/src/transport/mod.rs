//! The data listener: connections, HTTP/2 and gRPC, up to the service that answers one message.
//!
//! An `acceptor` passes each connection to a `worker`. There `connection` drives HTTP/2 with its clocks (`lifetime`)
//! and bounds (`meter`), `calls` and `streams` find the messages of a call and ask the service, `reply` writes.

mod acceptor;
mod authority;
mod bounds;
mod budget;
mod calls;
mod clients;
mod connection;
mod cpus;
mod faults;
mod frames;
mod head;
mod health;
mod lifetime;
mod messages;
mod meter;
mod peer;
mod reply;
mod routes;
mod shared;
mod signal;
mod socket;
mod streams;
mod subject;
mod tls;
mod turn;
mod worker;

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use bounds::Bounds;
pub use socket::Listener;
pub use tls::{TlsError, server_config};

use crate::refusal::Refusal;
use crate::service::Service;
use acceptor::Target;
use shared::Shared;
use worker::{Command, Factory};

/// What is left after a drain are answers on their way, and clients that do not take theirs.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// How a transport is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds of each listener's connections.
    pub bounds: Bounds,
    /// Certificates of the TCP listeners; Unix sockets stay plain and are guarded by their mode.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Threads that serve; at least one.
    pub workers: usize,
    /// The CPU of each worker, in turn; empty leaves them to the system.
    pub cpus: Vec<usize>,
    /// Whether the service needs to know the client of a request.
    pub bounds_clients: bool,
    /// What is answered where the service panics.
    pub internal: Refusal,
}

/// What one worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Connections that are open.
    pub connections: usize,
    /// Nanoseconds that it ran, waiting left out, since it started.
    pub busy_ns: u64,
}

/// A data listener that serves. Its methods may be called from any thread but its workers'.
pub struct Transport {
    shared: Arc<Shared>,
    workers: Vec<(tokio::sync::mpsc::UnboundedSender<Command>, Arc<worker::Load>)>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    acceptor: acceptor::Handle,
    workers: Vec<std::thread::JoinHandle<()>>,
}

impl Transport {
    /// Starts to serve on sockets that are bound and listen. `service` makes the service of each worker, on its
    /// thread. Health says NOT_SERVING until `set_ready`.
    pub fn start(
        listeners: Vec<Listener>,
        options: Options,
        service: impl Fn(usize) -> Rc<dyn Service> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let Options {
            bounds,
            tls,
            workers,
            cpus,
            bounds_clients,
            internal,
        } = options;
        let shared = Arc::new(Shared::new(bounds, bounds_clients, internal, tls));
        let factory: Factory = Arc::new(service);
        let mut started = Vec::new();
        for index in 0..workers.max(1) {
            let cpu = cpus.get(index % cpus.len().max(1)).copied();
            started.push(worker::start(
                index,
                cpu,
                Arc::clone(&shared),
                Arc::clone(&factory),
            )?);
        }
        let targets = started
            .iter()
            .map(|worker| Target::new(worker.commands.clone(), Arc::clone(&worker.load)));
        let acceptor = acceptor::start(listeners, targets.collect(), Arc::clone(&shared))?;
        let (workers, threads) = started
            .into_iter()
            .map(|worker| ((worker.commands, worker.load), worker.thread))
            .unzip();
        Ok(Self {
            shared,
            workers,
            threads: Mutex::new(Some(Threads {
                acceptor,
                workers: threads,
            })),
        })
    }

    /// What health and ServerReady say, to those who watch at once.
    pub fn set_ready(&self, is_ready: bool) {
        self.shared.set_ready(is_ready);
    }

    /// Gives new connections these certificates; connections that are up keep theirs.
    pub fn set_tls(&self, config: Arc<rustls::ServerConfig>) {
        self.shared.tls.store(Some(config));
    }

    /// Whether every thread runs and every worker answers within `within`.
    pub fn is_alive(&self, within: Duration) -> bool {
        let by = Instant::now() + within;
        let (alive, signs) = crossbeam_channel::bounded(self.workers.len());
        let is_asked = self
            .workers
            .iter()
            .all(|(commands, _)| commands.send(Command::Answer(alive.clone())).is_ok());
        // A worker that goes drops its own, so that nobody waits for it.
        drop(alive);
        is_asked && self.workers.iter().all(|_| signs.recv_deadline(by).is_ok()) && !self.shared.is_dead()
    }

    /// Whether a worker or the acceptor has ended though nobody told it to; for good.
    pub fn has_died(&self) -> bool {
        self.shared.is_dead()
    }

    /// What each worker does.
    pub fn loads(&self) -> Vec<WorkerLoad> {
        let load = |load: &worker::Load| WorkerLoad {
            connections: load.connections.load(Ordering::Relaxed),
            busy_ns: load.busy_ns.load(Ordering::Relaxed),
        };
        self.workers.iter().map(|(_, each)| load(each)).collect()
    }

    /// How many clients are connected, where clients are bounded.
    pub fn clients(&self) -> usize {
        self.shared.clients()
    }

    /// Panics of the service so far.
    pub fn fault_count(&self) -> u64 {
        self.shared.faults.count()
    }

    /// The texts of panics since the last call; bounded.
    pub fn take_faults(&self) -> Vec<String> {
        self.shared.faults.take()
    }

    /// Refuses new requests, lets those in flight end for up to `grace`, closes the listeners, and returns when the
    /// workers have ended; once.
    pub fn stop(&self, grace: Duration) {
        let by = Instant::now() + grace;
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { acceptor, workers }) = threads else {
            return;
        };
        self.shared.stop();
        let (quiet, quieted) = crossbeam_channel::bounded::<()>(0);
        for (commands, _) in &self.workers {
            let _ = commands.send(Command::Drain(quiet.clone()));
        }
        drop(quiet);
        // Every worker drops its own when it has nothing in flight. Until then clients are told to go elsewhere by an
        // answer, on old connections and on new ones; once they are sent away there is none.
        let _ = quieted.recv_deadline(by);
        drop(acceptor.stop);
        // A thread that panicked has said so in `is_alive`.
        let _ = acceptor.thread.join();
        let by = by.min(Instant::now() + LAST_WRITES);
        for (commands, _) in &self.workers {
            let _ = commands.send(Command::Stop(by));
        }
        for worker in workers {
            let _ = worker.join();
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}
