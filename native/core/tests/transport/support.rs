//! A server on loopback, clients for it, and waiting on conditions.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tickserve_core::refusal::{Reason, Refusal};
use tickserve_core::service::{Answering, Arrival, Describe, Protocol, Refused, Service};
use tickserve_core::transport::{Bounds, Listener, Options, Transport};
use tokio::sync::watch;

pub const PREDICT: &str = "/tickserve.v1.Prediction/Predict";
pub const PREDICT_STREAM: &str = "/tickserve.v1.Prediction/PredictStream";
/// Long enough for a loaded machine; what goes well takes milliseconds.
pub const BOUND: Duration = Duration::from_secs(30);

/// What the services of one server saw, and the gate that some answers wait at.
pub struct Seen {
    pub answered: AtomicUsize,
    pub given_up: AtomicUsize,
    pub gate: watch::Sender<bool>,
}

/// Answers a message with itself, unless it says otherwise.
struct Echo {
    seen: Arc<Seen>,
}

/// A request that waits: given up, unless it is finished.
struct Waiting {
    seen: Arc<Seen>,
    is_finished: bool,
}

impl Waiting {
    fn finish(&mut self) {
        self.is_finished = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_finished {
            self.seen.given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Service for Echo {
    fn answer(&self, _protocol: Protocol, message: Bytes, arrival: Arrival) -> Answering {
        self.seen.answered.fetch_add(1, Ordering::SeqCst);
        let text = String::from_utf8_lossy(&message).into_owned();
        let (what, figure) = text.split_once(':').unwrap_or((&text, ""));
        match what {
            "panic" => panic!("asked to"),
            "refuse" => Answering::Now(Err(refusal(3, Some(Reason::InvalidInput), "not so: é"))),
            "big" => Answering::Now(Ok(Bytes::from(vec![b'x'; figure.parse().unwrap()]))),
            "spin" => {
                let until = Instant::now() + Duration::from_micros(figure.parse().unwrap());
                while Instant::now() < until {}
                Answering::Now(Ok(message))
            }
            "block" => {
                while !*self.seen.gate.borrow() {
                    std::thread::yield_now();
                }
                Answering::Now(Ok(message))
            }
            "wait" => {
                let mut gate = self.seen.gate.subscribe();
                let mut waiting = Waiting {
                    seen: Arc::clone(&self.seen),
                    is_finished: false,
                };
                Answering::Later(Box::pin(async move {
                    let _ = gate.wait_for(|is_open| *is_open).await;
                    waiting.finish();
                    Ok(message)
                }))
            }
            "panic-later" => Answering::Later(Box::pin(async { panic!("asked to, later") })),
            "client" => {
                let client = arrival.client.map_or(0, |client| Arc::as_ptr(&client) as usize);
                Answering::Now(Ok(Bytes::from(client.to_string())))
            }
            "deadline" => {
                let left = arrival
                    .deadline
                    .map(|deadline| (deadline - arrival.arrived).as_millis());
                Answering::Now(Ok(Bytes::from(format!("{left:?}"))))
            }
            _ => Answering::Now(Ok(message)),
        }
    }

    fn describe(&self, call: Describe, message: &[u8]) -> Result<Bytes, Refusal> {
        assert!(message != b"panic", "asked to");
        let mut answer = format!("{call:?}:").into_bytes();
        answer.extend_from_slice(message);
        Ok(answer.into())
    }

    fn refuse(&self, refused: Refused<'_>) -> Refusal {
        match refused {
            Refused::Draining => refusal(14, Some(Reason::Draining), "draining"),
            Refused::AdminOnly => refusal(7, None, "admin only"),
            Refused::UnknownService(name) => refusal(5, None, name),
            Refused::Malformed(name) => refusal(3, Some(Reason::InvalidInput), name),
        }
    }
}

pub fn refusal(code: i32, reason: Option<Reason>, message: &str) -> Refusal {
    Refusal {
        code,
        reason,
        message: message.to_owned(),
        field: "a field".to_owned(),
        executed: false,
        request_id: String::new(),
    }
}

pub fn options() -> Options {
    Options {
        bounds: Bounds {
            max_message_bytes: 1 << 20,
            ..Bounds::default()
        },
        tls: None,
        workers: 1,
        cpus: Vec::new(),
        bounds_clients: true,
        internal: refusal(13, Some(Reason::Internal), "internal error"),
    }
}

pub struct Server {
    pub transport: Transport,
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
}

impl Server {
    pub fn start(options: Options) -> Self {
        let (listener, address) = listening();
        let (transport, seen) = start_on(vec![listener], options);
        Self {
            transport,
            address,
            seen,
        }
    }

    pub fn connections(&self) -> usize {
        self.transport.loads().iter().map(|load| load.connections).sum()
    }

    /// A socket for raw bytes; reads fail after the bound.
    pub fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.set_write_timeout(Some(BOUND)).unwrap();
        stream
    }

    pub async fn client(&self) -> Client {
        Client::over(tokio::net::TcpStream::connect(self.address).await.unwrap()).await
    }
}

pub fn listening() -> (Listener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (Listener::Tcp(listener), address)
}

pub fn start_on(listeners: Vec<Listener>, options: Options) -> (Transport, Arc<Seen>) {
    start_with(listeners, options, |_| {})
}

/// The same; `before` runs on each worker before its service is made.
pub fn start_with(
    listeners: Vec<Listener>,
    options: Options,
    before: impl Fn(usize) + Send + Sync + 'static,
) -> (Transport, Arc<Seen>) {
    let seen = Arc::new(Seen {
        answered: AtomicUsize::new(0),
        given_up: AtomicUsize::new(0),
        gate: watch::Sender::new(false),
    });
    let own = Arc::clone(&seen);
    let transport = Transport::start(listeners, options, move |index| {
        before(index);
        Rc::new(Echo {
            seen: Arc::clone(&own),
        })
    })
    .unwrap();
    transport.set_ready(true);
    (transport, seen)
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    pub ended: watch::Receiver<Option<Option<u32>>>,
}

impl Client {
    pub async fn over(
        io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let mut builder = h2::client::Builder::new();
        // A test may read its answers late.
        builder.data_frame_budget(1 << 20);
        let (requests, connection) = builder.handshake(io).await.unwrap();
        let (end, ended) = watch::channel(None);
        tokio::spawn(async move {
            let reason = connection
                .await
                .err()
                .and_then(|error| error.reason())
                .map(u32::from);
            end.send_replace(Some(reason));
        });
        Self { requests, ended }
    }

    /// The reason of the connection's end, None where it gave none.
    pub async fn end(&mut self) -> Option<u32> {
        bounded(self.ended.wait_for(Option::is_some))
            .await
            .unwrap()
            .unwrap()
    }

    /// Opens a call; nothing is sent of its body yet.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Call {
        let mut request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut requests = bounded(self.requests.clone().ready()).await.unwrap();
        let (response, sender) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        Call {
            response: Some(response),
            sender,
            body: None,
            read: BytesMut::new(),
            head: HeaderMap::new(),
        }
    }

    /// One message, one answer.
    pub async fn call(&self, path: &str, message: &[u8]) -> Result<Bytes, HeaderMap> {
        let mut call = self.open(path, &[]).await;
        call.send(framed(message), true);
        let answer = call.message().await?;
        assert_eq!(call.end().await["grpc-status"], "0");
        Ok(answer)
    }

    /// The status of a call whose body is `body`.
    pub async fn status(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> i32 {
        let mut call = self.open(path, headers).await;
        call.send(body, true);
        code(&call.end().await)
    }
}

pub struct Call {
    response: Option<h2::client::ResponseFuture>,
    pub sender: SendStream<Bytes>,
    body: Option<RecvStream>,
    read: BytesMut,
    head: HeaderMap,
}

impl Call {
    pub fn send(&mut self, bytes: Bytes, is_last: bool) {
        // A server that has answered may have closed its side.
        let _ = self.sender.send_data(bytes, is_last);
    }

    /// The next answer, or the trailers instead of it.
    pub async fn message(&mut self) -> Result<Bytes, HeaderMap> {
        if let Some(response) = self.response.take() {
            let (parts, body) = bounded(response).await.unwrap().into_parts();
            self.head = parts.headers;
            self.body = Some(body);
        }
        let body = self.body.as_mut().unwrap();
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk::<5>() {
                let size = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if rest.len() >= size {
                    let mut message = self.read.split_to(5 + size);
                    return Ok(message.split_off(5).freeze());
                }
            }
            match bounded(body.data()).await {
                Some(Ok(data)) => {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    self.read.put(data);
                }
                Some(Err(error)) => panic!("{error}"),
                None => {
                    return Err(bounded(body.trailers())
                        .await
                        .unwrap()
                        .unwrap_or_else(|| self.head.clone()));
                }
            }
        }
    }

    /// Whether the call was turned down by HTTP/2, before gRPC.
    pub async fn refused(&mut self) -> bool {
        match bounded(self.response.take().unwrap()).await {
            Ok(response) => !response.status().is_success(),
            Err(error) => error.is_reset(),
        }
    }

    /// The trailers, past what answers come before them.
    pub async fn end(&mut self) -> HeaderMap {
        loop {
            if let Err(trailers) = self.message().await {
                return trailers;
            }
        }
    }
}

pub fn code(trailers: &HeaderMap) -> i32 {
    trailers["grpc-status"].to_str().unwrap().parse().unwrap()
}

pub fn framed(message: &[u8]) -> Bytes {
    flagged(0, message)
}

pub fn flagged(flag: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(flag);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put(message);
    bytes.freeze()
}

pub async fn bounded<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(BOUND, future)
        .await
        .expect("it did not come to this in time")
}

/// Waits until the condition holds.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < until, "it did not come to this in time");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The opening of a raw connection: preface and empty SETTINGS.
pub fn opening() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![size[1], size[2], size[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Headers of a Predict call in HPACK without a table.
pub fn raw_headers() -> Vec<u8> {
    let mut block = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PREDICT),
        (":authority", "server"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

/// Reads frames to the end of the connection: the error code of GOAWAY, if there was one.
pub fn goaway(mut stream: TcpStream) -> Option<u32> {
    let mut bytes = Vec::new();
    // A reset counts as the end; that nothing comes for so long does not.
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_ne!(
            error.kind(),
            std::io::ErrorKind::WouldBlock,
            "the connection stays open"
        );
    }
    let mut rest = &bytes[..];
    let mut code = None;
    while rest.len() >= 9 {
        let size = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let Some(payload) = rest.get(9..9 + size) else {
            break;
        };
        if rest[3] == 7 {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        rest = &rest[9 + size..];
    }
    code
}

/// Writes until the server has had enough.
pub fn pour(stream: &mut TcpStream, bytes: &[u8], times: usize) {
    for _ in 0..times {
        if stream.write_all(bytes).is_err() {
            return;
        }
    }
}
