//! A worker: one thread, one runtime, its connections and its service; nothing on it is shared with another worker.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Sender;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::budget::Budget;
use super::connection;
use super::cpus;
use super::faults;
use super::shared::Shared;
use super::signal::Signal;
use super::socket::Socket;
use super::turn::{Turn, Turns};
use crate::service::Service;

/// Makes the service of the worker with this index, on that worker's thread.
pub type Factory = Arc<dyn Fn(usize) -> Rc<dyn Service> + Send + Sync>;

/// What a worker is told by other threads.
pub(super) enum Command {
    Serve(Socket, Admission),
    /// Answer, as a sign of life.
    Answer(Sender<()>),
    /// Refuse what is new, and drop this when nothing is in flight.
    Drain(Sender<()>),
    /// Send everyone away, and end by the instant.
    Stop(Instant),
}

/// What others see of a worker.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) connections: AtomicUsize,
    pub(super) busy_ns: Arc<AtomicU64>,
}

/// A connection that was let in, counted until it is dropped.
pub(super) struct Admission {
    load: Arc<Load>,
    of_listener: Arc<AtomicUsize>,
    number: u64,
}

impl Admission {
    pub(super) fn new(load: &Arc<Load>, of_listener: &Arc<AtomicUsize>, number: u64) -> Self {
        load.connections.fetch_add(1, Ordering::Relaxed);
        of_listener.fetch_add(1, Ordering::Relaxed);
        Self {
            load: Arc::clone(load),
            of_listener: Arc::clone(of_listener),
            number,
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.load.connections.fetch_sub(1, Ordering::Relaxed);
        self.of_listener.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The inside of a worker, for its thread alone.
pub(super) struct Worker {
    pub(super) service: Rc<dyn Service>,
    pub(super) shared: Arc<Shared>,
    pub(super) turn: Rc<Turn>,
    /// New requests are refused.
    pub(super) drain: Rc<Signal>,
    pub(super) budget: Rc<Budget>,
    /// Connections are closed.
    pub(super) retire: Rc<Signal>,
    open_calls: Cell<usize>,
    call_ended: Notify,
    load: Arc<Load>,
    connection_ended: Notify,
}

impl Worker {
    /// Counts a call that is not answered at once.
    pub(super) fn begin_call(&self) {
        self.open_calls.set(self.open_calls.get() + 1);
    }

    /// Counts its end.
    pub(super) fn end_call(&self) {
        self.open_calls.set(self.open_calls.get() - 1);
        if self.open_calls.get() == 0 {
            self.call_ended.notify_one();
        }
    }

    async fn no_calls(&self) {
        while self.open_calls.get() > 0 {
            self.call_ended.notified().await;
        }
    }
}

/// The outside of a worker.
pub(super) struct Handle {
    pub(super) commands: UnboundedSender<Command>,
    pub(super) load: Arc<Load>,
    pub(super) thread: JoinHandle<()>,
}

/// Starts the worker with this index, on `cpu` alone where one is given.
pub(super) fn start(
    index: usize,
    cpu: Option<usize>,
    shared: Arc<Shared>,
    factory: Factory,
) -> io::Result<Handle> {
    let (commands, inbox) = unbounded_channel();
    let load = Arc::new(Load::default());
    let own = Arc::clone(&load);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let thread = std::thread::Builder::new()
        .name(format!("data-{index}"))
        .spawn(move || {
            let _watch = shared.watch_thread();
            faults::keep_panics_of_this_thread();
            cpus::pin_this_thread(cpu);
            let turn = Turn::new();
            let busy_ns = Arc::clone(&own.busy_ns);
            let budget = Budget::new(&shared.held_bytes, shared.bounds.max_held_bytes);
            let worker = Rc::new(Worker {
                budget,
                service: factory(index),
                shared,
                turn: Rc::clone(&turn),
                drain: Rc::default(),
                retire: Rc::default(),
                open_calls: Cell::new(0),
                call_ended: Notify::new(),
                load: own,
                connection_ended: Notify::new(),
            });
            let tasks = LocalSet::new();
            runtime.block_on(Turns::new(tasks.run_until(obey(worker, inbox)), turn, busy_ns));
            // Whatever did not end within the grace ends here.
            drop(tasks);
        })?;
    Ok(Handle {
        commands,
        load,
        thread,
    })
}

async fn obey(worker: Rc<Worker>, mut inbox: UnboundedReceiver<Command>) {
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Serve(socket, admission) => {
                let own = Rc::clone(&worker);
                tokio::task::spawn_local(serve(own, socket, admission));
            }
            Command::Answer(alive) => {
                let _ = alive.try_send(());
            }
            Command::Drain(quiet) => {
                worker.drain.begin();
                let own = Rc::clone(&worker);
                tokio::task::spawn_local(async move {
                    own.no_calls().await;
                    drop(quiet);
                });
            }
            Command::Stop(by) => return wind_up(&worker, inbox, by).await,
        }
    }
}

async fn serve(worker: Rc<Worker>, socket: Socket, admission: Admission) {
    // On its own: whoever holds a future by value is as large, and this one is kept as long as a connection is silent.
    let connection = Box::pin(connection::serve(Rc::clone(&worker), socket, admission.number));
    let _ = worker.shared.faults.catch_in(connection).await;
    drop(admission);
    worker.connection_ended.notify_one();
}

async fn wind_up(worker: &Worker, mut inbox: UnboundedReceiver<Command>, by: Instant) {
    worker.drain.begin();
    worker.retire.begin();
    while worker.load.connections.load(Ordering::Relaxed) > 0 {
        tokio::select! {
            () = worker.connection_ended.notified() => {}
            // A connection that came too late is dropped.
            Some(command) = inbox.recv() => if let Command::Answer(alive) = command {
                let _ = alive.try_send(());
            },
            () = tokio::time::sleep_until(by.into()) => return,
        }
    }
}
