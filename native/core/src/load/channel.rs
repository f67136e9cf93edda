//! One HTTP/2 connection, opened again by the next request where it was lost.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::outcome::Outcome;
use super::{Address, Options, Tls};

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 24;
/// After a connection could not be opened, requests fail at once for so long, rather than storm a server that starts.
const PAUSE: Duration = Duration::from_millis(50);
const MAX_CONNECT: Duration = Duration::from_secs(5);

/// Why a connection could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no way to the server.
    #[error("connection refused or failed: {0}")]
    Socket(String),
    /// One of the two distrusts the other.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The server speaks something else.
    #[error("no HTTP/2: {0}")]
    Http(String),
    /// The server says nothing.
    #[error("no connection within {0:?}")]
    Late(Duration),
}

#[derive(Debug)]
pub(super) struct Channel {
    address: Address,
    tls: Option<Tls>,
    uri: Uri,
    within: Duration,
    requests: RefCell<Option<SendRequest<Bytes>>>,
    opening: Mutex<()>,
    failed: RefCell<Option<(Instant, ConnectError)>>,
    in_flight: Cell<usize>,
    /// The most requests that were unanswered at once, and the least that the server allowed.
    pub(super) most_in_flight: Cell<usize>,
    pub(super) stream_limit: Cell<usize>,
    pub(super) times_opened: Cell<u64>,
}

impl Channel {
    /// Connects; fails where that fails.
    pub async fn open(options: &Options) -> Result<Rc<Self>, ConnectError> {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let authority = match &options.address {
            Address::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp(host, port) => format!("{host}:{port}"),
            Address::Unix(_) => "localhost".to_owned(),
        };
        let uri = format!("{scheme}://{authority}{}", options.path)
            .parse()
            .map_err(|error: http::uri::InvalidUri| ConnectError::Socket(error.to_string()))?;
        let channel = Rc::new(Self {
            address: options.address.clone(),
            tls: options.tls.clone(),
            uri,
            within: options.deadline.min(MAX_CONNECT),
            requests: RefCell::default(),
            opening: Mutex::default(),
            failed: RefCell::default(),
            in_flight: Cell::default(),
            most_in_flight: Cell::default(),
            stream_limit: Cell::new(usize::MAX),
            times_opened: Cell::default(),
        });
        let requests = channel.connect().await?;
        channel.requests.replace(Some(requests));
        Ok(channel)
    }

    /// Begins a call on the connection, which is opened where it is not.
    pub async fn begin(
        self: &Rc<Self>,
        headers: &HeaderMap,
    ) -> Result<(SendStream<Bytes>, ResponseFuture), Outcome> {
        let mut ready = self.ready().await?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers.clone();
        let (answer, body) = ready
            .send_request(request, false)
            .map_err(|error| Outcome::broken(&error))?;
        self.stream_limit
            .set(self.stream_limit.get().min(ready.current_max_send_streams()));
        Ok((body, answer))
    }

    /// Counts a request as unanswered until what is returned is dropped.
    pub fn count(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        self.most_in_flight
            .set(self.most_in_flight.get().max(self.in_flight.get()));
        InFlight(Rc::clone(self))
    }

    async fn ready(self: &Rc<Self>) -> Result<SendRequest<Bytes>, Outcome> {
        // A server may end a connection in good order: then there is a new one, and the request never knows.
        let held = self.requests.borrow().clone();
        if let Some(requests) = held
            && let Ok(ready) = requests.ready().await
        {
            return Ok(ready);
        }
        let _one_opens = self.opening.lock().await;
        let held = self.requests.borrow().clone();
        if let Some(requests) = held
            && let Ok(ready) = requests.ready().await
        {
            return Ok(ready);
        }
        if let Some((when, error)) = &*self.failed.borrow()
            && when.elapsed() < PAUSE
        {
            return Err(Outcome::Broken(error.to_string()));
        }
        match self.connect().await {
            Ok(requests) => {
                self.requests.replace(Some(requests.clone()));
                requests.ready().await.map_err(|error| Outcome::broken(&error))
            }
            Err(error) => {
                let outcome = Outcome::Broken(error.to_string());
                self.failed.replace(Some((Instant::now(), error)));
                Err(outcome)
            }
        }
    }

    async fn connect(self: &Rc<Self>) -> Result<SendRequest<Bytes>, ConnectError> {
        let connecting = async {
            match &self.address {
                Address::Unix(path) => {
                    self.handshake(UnixStream::connect(path).await.map_err(|error| socket(&error))?)
                        .await
                }
                Address::Tcp(host, port) => {
                    let socket_ = TcpStream::connect((host.as_str(), *port))
                        .await
                        .map_err(|error| socket(&error))?;
                    socket_.set_nodelay(true).map_err(|error| socket(&error))?;
                    match &self.tls {
                        None => self.handshake(socket_).await,
                        Some(tls) => {
                            let connector = TlsConnector::from(tls.config.clone());
                            let secured = connector.connect(tls.server_name.clone(), socket_).await;
                            self.handshake(secured.map_err(|error| ConnectError::Tls(error.to_string()))?)
                                .await
                        }
                    }
                }
            }
        };
        timeout(self.within, connecting)
            .await
            .map_err(|_| ConnectError::Late(self.within))?
    }

    async fn handshake<S>(self: &Rc<Self>, socket: S) -> Result<SendRequest<Bytes>, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (requests, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(|error| ConnectError::Http(error.to_string()))?;
        self.times_opened.set(self.times_opened.get() + 1);
        // How it ends is the outcome of the requests on it.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(requests)
    }
}

pub(super) struct InFlight(Rc<Channel>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// What every call says of itself; with its deadline where it has one.
pub(super) fn headers(deadline: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    headers.insert("te", http::HeaderValue::from_static("trailers"));
    headers.insert("user-agent", http::HeaderValue::from_static("tickserve-bench"));
    if let Some(deadline) = deadline {
        headers.insert("grpc-timeout", timeout_header(deadline));
    }
    headers
}

/// At most eight digits and a unit, as gRPC asks for.
fn timeout_header(deadline: Duration) -> http::HeaderValue {
    const MOST: u128 = 99_999_999;
    let (number, unit) = match (deadline.as_micros(), deadline.as_millis()) {
        (micros, _) if micros <= MOST => (micros.max(1), 'u'),
        (_, millis) if millis <= MOST => (millis, 'm'),
        _ => (u128::from(deadline.as_secs()).min(MOST), 'S'),
    };
    // Digits and a letter are always a header's value.
    http::HeaderValue::try_from(format!("{number}{unit}"))
        .unwrap_or_else(|_| http::HeaderValue::from_static("1S"))
}

/// What is wrong with an answer that is not gRPC's at all.
pub(super) fn foreign(status: http::StatusCode, body: &RecvStream) -> Outcome {
    let ended = if body.is_end_stream() {
        ", and nothing more"
    } else {
        ""
    };
    Outcome::Broken(format!("no gRPC: HTTP status {}{ended}", status.as_u16()))
}

fn socket(error: &std::io::Error) -> ConnectError {
    ConnectError::Socket(error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_at_most_eight_digits() {
        for (deadline, expected) in [
            (Duration::from_nanos(1), "1u"),
            (Duration::from_secs(5), "5000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
        ] {
            assert_eq!(timeout_header(deadline), expected);
        }
    }
}
