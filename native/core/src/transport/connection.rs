//! One connection from its first byte to its last.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::calls;
use super::clients::Connected;
use super::lifetime::{Due, Lifetime};
use super::meter::{Meter, Metered};
use super::peer::Peer;
use super::reply::Framed;
use super::signal::Listening;
use super::socket::{Io, Socket};
use super::subject::subject;
use super::worker::Worker;

/// Windows and send buffer: with larger ones a client that pipelines starves the others of its worker.
const WINDOW_BYTES: u32 = 64 << 10;
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Small frames that wait to be read, in h2's measure (256 less the size of each): a window full of messages of 20
/// bytes. Its own default closes a connection that pipelines some 150 messages.
const SMALL_FRAMES_BUDGET: usize = 1 << 20;
/// Calls taken back before they were looked at, and resets for errors of the client's.
const MAX_RESETS: usize = 1024;
/// How long a client may take to read why it is closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves one connection, the `number`th of the server.
pub(super) async fn serve(worker: Rc<Worker>, socket: Socket, number: u64) {
    let bounds = worker.shared.bounds;
    let born = Instant::now();
    let retire = Rc::clone(&worker.retire);
    let mut listening = Listening::new(&retire);
    // Several times as large as what it makes, and gone when that is made.
    let mut opening = Box::pin(timeout(
        bounds.handshake_timeout,
        Connection::open(worker, socket, born, number),
    ));
    let opened = poll_fn(|cx| match listening.poll_begun(cx) {
        true => Poll::Ready(None),
        false => opening.as_mut().poll(cx).map(|opened| opened.ok()?.ok()),
    });
    // Who does not complete the handshake is closed without a word, as there is no protocol to say it in.
    if let Some(connection) = opened.await {
        drop(opening);
        drop(listening);
        connection.run().await;
    }
}

struct Connection {
    h2: h2::server::Connection<Metered, Framed>,
    pings: Option<PingPong>,
    peer: Rc<Peer>,
    lifetime: Lifetime,
    timer: Option<Pin<Box<Sleep>>>,
    listening: Listening,
    is_retired: bool,
    accepted: VecDeque<(Request<RecvStream>, SendResponse<Framed>)>,
    _connected: Option<Connected>,
}

enum Event {
    Calls,
    Timer,
    Retire,
    Flood,
    Closed,
}

impl Connection {
    async fn open(worker: Rc<Worker>, socket: Socket, born: Instant, number: u64) -> io::Result<Self> {
        let bounds = worker.shared.bounds;
        let (io, identity) = secure(&worker, socket).await?;
        let connected = worker.shared.connect(&identity);
        let meter = Meter::new(bounds.client_ping_interval, born);
        let metered = Metered::new(io, Rc::clone(&meter), Rc::clone(&worker.turn));
        let mut h2 = h2::server::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buffer_size(WINDOW_BYTES as usize)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_concurrent_streams(bounds.max_streams)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(Some(MAX_RESETS))
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .handshake(metered)
            .await
            .map_err(io::Error::other)?;
        let pings = h2.ping_pong();
        let lifetime = Lifetime::new(&bounds, born, number);
        let listening = Listening::new(&worker.retire);
        let client = connected.as_ref().map(|connected| connected.client.clone());
        let peer = Peer::new(worker, meter, client, identity.into());
        let timer = lifetime
            .next(born, peer.activity())
            .map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Ok(Self {
            h2,
            pings,
            peer,
            lifetime,
            timer,
            listening,
            is_retired: false,
            accepted: VecDeque::new(),
            _connected: connected,
        })
    }

    async fn run(mut self) {
        loop {
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Calls => self.begin_calls().await,
                Event::Timer => match self.check_lifetime() {
                    Due::Nothing => {}
                    Due::Ping => self.ping(),
                    Due::Retire => self.retire(),
                    Due::Close => return self.hang_up(Reason::NO_ERROR).await,
                },
                Event::Retire => self.retire(),
                Event::Flood => return self.hang_up(Reason::ENHANCE_YOUR_CALM).await,
                Event::Closed => return,
            }
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.is_retired && self.listening.poll_begun(cx) {
            return Poll::Ready(Event::Retire);
        }
        // Reads, writes what calls have put in line, and takes all calls that came.
        while self.accepted.len() < self.peer.worker.shared.bounds.max_streams as usize {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok(call))) => self.accepted.push_back(call),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Event::Closed),
                Poll::Pending => break,
            }
        }
        if self.peer.meter.is_flooded() {
            return Poll::Ready(Event::Flood);
        }
        if !self.accepted.is_empty() {
            return Poll::Ready(Event::Calls);
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| Event::Timer),
            None => Poll::Pending,
        }
    }

    /// Begins the calls that came. Their answers leave together, unless they take long.
    async fn begin_calls(&mut self) {
        let arrived = Instant::now();
        let turn = Rc::clone(&self.peer.worker.turn);
        if turn.is_long(arrived) {
            tokio::task::yield_now().await;
        }
        while let Some((request, respond)) = self.accepted.pop_front() {
            calls::begin(&self.peer, request, respond, arrived);
            if !self.accepted.is_empty() && turn.is_long(Instant::now()) {
                // An error comes up again at the next event.
                poll_fn(|cx| {
                    let _ = self.h2.poll_closed(cx);
                    Poll::Ready(())
                })
                .await;
                tokio::task::yield_now().await;
            }
        }
    }

    fn check_lifetime(&mut self) -> Due {
        let now = Instant::now();
        let due = self.lifetime.check(now, self.peer.activity());
        self.timer = match (self.timer.take(), self.lifetime.next(now, self.peer.activity())) {
            (Some(mut timer), Some(at)) => {
                timer.as_mut().reset(at.into());
                Some(timer)
            }
            _ => None,
        };
        due
    }

    fn ping(&mut self) {
        if let Some(pings) = &mut self.pings {
            // Takes the answer to the last ping, if any, without which h2 sends no other.
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
            let _ = pings.send_ping(Ping::opaque());
        }
    }

    /// Tells the client to go elsewhere; the calls that are open go on.
    fn retire(&mut self) {
        self.is_retired = true;
        self.h2.graceful_shutdown();
    }

    async fn hang_up(mut self, reason: Reason) {
        self.h2.abrupt_shutdown(reason);
        let _ = timeout(GOODBYE, poll_fn(|cx| self.h2.poll_closed(cx))).await;
    }
}

/// Makes the bytes plain, and says whose they are.
async fn secure(worker: &Worker, socket: Socket) -> io::Result<(Io, String)> {
    let address = socket.peer();
    match (socket, worker.shared.tls.load_full()) {
        (Socket::Tcp(stream, _), Some(config)) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let stream = TlsAcceptor::from(config).accept(stream).await?;
            let certificates = stream.get_ref().1.peer_certificates();
            let named = certificates.and_then(<[_]>::first).and_then(|leaf| subject(leaf));
            let identity = named.map_or(address, |named| format!("subject:{named}"));
            Ok((Io::Tls(Box::new(stream)), identity))
        }
        (Socket::Tcp(stream, _), None) => Ok((Io::Tcp(tokio::net::TcpStream::from_std(stream)?), address)),
        (Socket::Unix(stream), _) => Ok((Io::Unix(tokio::net::UnixStream::from_std(stream)?), address)),
    }
}
