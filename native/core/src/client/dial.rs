//! From an address to a connection on which the server has spoken HTTP/2.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};
use tokio_rustls::TlsConnector;

use super::link::{Check, Ended, Link, wait_for};
use super::tls::TlsConfig;
use super::watch::Facts;
use super::wire::{Io, Plug, Watched, Wire};

const SLICE: Duration = Duration::from_millis(100);
/// So much may be on its way to a stream, and to all of a connection, before someone reads it.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// What is taken of headers and trailers; gRPC's own clients take as much.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Small frames that wait to be read, in h2's measure; its own default ends a stream of many small answers.
const SMALL_FRAMES_BUDGET: usize = 16 << 20;
/// The kernel gives up a connection whose peer has not acknowledged for so long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name or an IP address, and a port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Failed(String),
    #[error("the deadline passed while {0}")]
    Late(&'static str),
    #[error("interrupted")]
    Interrupted,
}

/// TLS, and the name that the server's certificate must bear.
pub(super) type Secure = (TlsConfig, ServerName<'static>);

/// Connects until `end`.
pub(super) fn dial(
    target: &Target,
    secure: Option<&Secure>,
    end: Instant,
    check: Check<'_>,
) -> Result<Arc<Link>, DialError> {
    let plug = Plug::new(match target {
        Target::Unix(path) => {
            let address = SockAddr::unix(path).map_err(failed)?;
            connect(Domain::UNIX, &address, end, check)
                .map_err(|error| error.at(&format!("unix:{}", path.display())))?
        }
        Target::Tcp(host, port) => {
            let mut last = DialError::Failed(format!("{host} has no address"));
            let mut found = None;
            for address in resolve(host, *port, end, check)? {
                match connect(Domain::for_address(address), &address.into(), end, check) {
                    Ok(socket) => {
                        found = Some(socket);
                        break;
                    }
                    Err(error @ DialError::Failed(_)) => last = error.at(&address.to_string()),
                    Err(error) => return Err(error),
                }
            }
            let socket = found.ok_or(last)?;
            prepare(&socket).map_err(failed)?;
            socket
        }
    });
    let io = match secure {
        None => Io::Plain(Wire(Arc::clone(&plug))),
        Some((config, name)) => {
            let mut connecting =
                pin!(TlsConnector::from(Arc::clone(config)).connect(name.clone(), Wire(Arc::clone(&plug))));
            let stream = wait(&plug, end, check, "TLS was agreed on", |cx| {
                connecting.as_mut().poll(cx)
            })?
            .map_err(|error| DialError::Failed(format!("TLS: {error}")))?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(DialError::Failed(
                    "TLS: the server does not offer HTTP/2".to_owned(),
                ));
            }
            Io::Tls(Box::new(stream))
        }
    };
    let facts = Arc::new(Facts::new());
    let mut shaking = pin!(
        h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_BYTES)
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .enable_push(false)
            .handshake::<_, Bytes>(Watched::new(io, Arc::clone(&facts)))
    );
    let (requests, connection) = wait(&plug, end, check, "HTTP/2 was begun", |cx| {
        shaking.as_mut().poll(cx)
    })?
    .map_err(|error| DialError::Failed(format!("HTTP/2: {error}")))?;
    let link = Link::new(plug, facts, requests, connection).map_err(failed)?;
    link.turn();
    let settled = link.wait(Some(end), check, |_| {
        match (link.facts().has_settings(), link.is_over()) {
            (true, false) => Poll::Ready(true),
            (_, true) => Poll::Ready(false),
            (false, false) => Poll::Pending,
        }
    });
    match settled {
        Ok(true) => Ok(link),
        Ok(false) => Err(DialError::Failed(
            "the server closed the connection before it spoke HTTP/2".to_owned(),
        )),
        Err(Ended::Late) => Err(DialError::Late("the server's HTTP/2 settings were waited for")),
        Err(Ended::Interrupted) => Err(DialError::Interrupted),
    }
}

impl DialError {
    fn at(self, place: &str) -> Self {
        match self {
            Self::Failed(why) => Self::Failed(format!("{place}: {why}")),
            other => other,
        }
    }
}

fn failed(error: io::Error) -> DialError {
    DialError::Failed(error.to_string())
}

fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

fn connect(domain: Domain, address: &SockAddr, end: Instant, check: Check<'_>) -> Result<Socket, DialError> {
    let socket = Socket::new(domain, Type::STREAM, None).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    match socket.connect(address) {
        Ok(()) => return Ok(socket),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(failed(error)),
    }
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DialError::Late("the server was connected to"));
        }
        let seen = wait_for(socket.as_raw_fd(), true, None, left.min(SLICE));
        if seen.is_readable || seen.is_writable {
            return match socket.take_error() {
                Ok(None) => Ok(socket),
                Ok(Some(error)) | Err(error) => Err(failed(error)),
            };
        }
        check().map_err(|_| DialError::Interrupted)?;
    }
}

/// The addresses of a name. The resolver cannot be told to stop, so it has a thread of its own, which may outlast the wait.
fn resolve(host: &str, port: u16, end: Instant, check: Check<'_>) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, receiver) = channel();
    let name = host.to_owned();
    std::thread::Builder::new()
        .name("tickserve-resolve".to_owned())
        .spawn(move || {
            let found = (name.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect::<Vec<_>>);
            // Nobody may be waiting any more.
            let _ = sender.send(found);
        })
        .map_err(failed)?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DialError::Late("the name was looked up"));
        }
        match receiver.recv_timeout(left.min(SLICE)) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => return Err(DialError::Failed(format!("{host}: {error}"))),
            Err(RecvTimeoutError::Timeout) => check().map_err(|_| DialError::Interrupted)?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(DialError::Failed(format!(
                    "{host}: the name could not be looked up"
                )));
            }
        }
    }
}

/// Drives one future that reads and writes `plug`.
fn wait<T>(
    plug: &Plug,
    end: Instant,
    check: Check<'_>,
    what: &'static str,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Result<T, DialError> {
    let again = Arc::new(Again(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&again));
    let mut cx = Context::from_waker(&waker);
    loop {
        plug.begin_turn(true);
        if let Poll::Ready(value) = poll(&mut cx) {
            return Ok(value);
        }
        if again.0.swap(false, Ordering::AcqRel) {
            continue;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DialError::Late(what));
        }
        let seen = wait_for(plug.fd(), plug.wants_write(), None, left.min(SLICE));
        if seen.is_readable {
            plug.note_readable();
        }
        if seen.is_signalled || !(seen.is_readable || seen.is_writable) {
            check().map_err(|_| DialError::Interrupted)?;
        }
    }
}

struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}
