//! The acceptor: a thread that takes connections and passes each to the worker that has the least to do.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::faults;
use super::shared::Shared;
use super::socket::{Accepting, Listener, Socket};
use super::worker::{Admission, Command, Load};

/// How long to leave connections in the backlog when there is no file descriptor for them.
const BREATHER: Duration = Duration::from_millis(50);

/// The outside of the acceptor; dropping `stop` ends it and closes the listeners.
pub(super) struct Handle {
    pub(super) stop: oneshot::Sender<()>,
    pub(super) thread: JoinHandle<()>,
}

/// Where connections go.
pub(super) struct Target {
    pub(super) commands: UnboundedSender<Command>,
    pub(super) load: Arc<Load>,
    /// Busy time seen before, and recent busy time: what came since then, and half of what was recent then.
    pub(super) seen_ns: AtomicU64,
    pub(super) recent_ns: AtomicU64,
}

impl Target {
    pub(super) fn new(commands: UnboundedSender<Command>, load: Arc<Load>) -> Self {
        Self {
            commands,
            load,
            seen_ns: AtomicU64::new(0),
            recent_ns: AtomicU64::new(0),
        }
    }

    fn connections_and_recent_ns(&self) -> (usize, u64) {
        let busy_ns = self.load.busy_ns.load(Ordering::Relaxed);
        let new_ns = busy_ns - self.seen_ns.swap(busy_ns, Ordering::Relaxed);
        let recent_ns = self.recent_ns.load(Ordering::Relaxed) / 2 + new_ns;
        self.recent_ns.store(recent_ns, Ordering::Relaxed);
        (self.load.connections.load(Ordering::Relaxed), recent_ns)
    }
}

/// Starts accepting.
pub(super) fn start(
    listeners: Vec<Listener>,
    targets: Vec<Target>,
    shared: Arc<Shared>,
) -> io::Result<Handle> {
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let listeners = {
        let _within = runtime.enter();
        listeners
            .into_iter()
            .map(Accepting::new)
            .collect::<io::Result<Vec<_>>>()?
    };
    let thread = std::thread::Builder::new()
        .name("data-accept".to_owned())
        .spawn(move || {
            let _watch = shared.watch_thread();
            faults::keep_panics_of_this_thread();
            let targets = Rc::new(targets);
            let max_connections = shared.bounds.max_connections;
            let tasks = LocalSet::new();
            for listener in listeners {
                tasks.spawn_local(accept(listener, Rc::clone(&targets), max_connections));
            }
            // An error is the sender's end, which says the same.
            let _ = runtime.block_on(tasks.run_until(stopped));
        })?;
    Ok(Handle { stop, thread })
}

async fn accept(listener: Accepting, targets: Rc<Vec<Target>>, max_connections: usize) {
    let accepted = Arc::new(AtomicUsize::new(0));
    let mut number = 0;
    loop {
        match listener.accept().await {
            // One too many is closed at once; its client sees that.
            Ok(_) if accepted.load(Ordering::Relaxed) >= max_connections => {}
            Ok(socket) => {
                number += 1;
                pass(socket, &targets, &accepted, number);
            }
            Err(error) if is_of_client(&error) => {}
            Err(_) => tokio::time::sleep(BREATHER).await,
        }
    }
}

fn pass(socket: Socket, targets: &[Target], accepted: &Arc<AtomicUsize>, number: u64) {
    if let Some(target) = targets
        .iter()
        .filter(|target| !target.commands.is_closed())
        .min_by_key(|target| target.connections_and_recent_ns())
    {
        let admission = Admission::new(&target.load, accepted, number);
        // A worker that goes just now drops the connection.
        let _ = target.commands.send(Command::Serve(socket, admission));
    }
}

/// Whether the connection failed, not the listener.
fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::InvalidInput
    )
}
