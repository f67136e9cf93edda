//! One HTTP/2 connection with gRPC calls on it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Method, Request, Uri};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::options::Options;
use crate::records::{BROKEN, Records};

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 24;
const OK: &str = "0";

#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    uri: Uri,
    timeout: Option<String>,
    frame: Bytes,
}

impl Connection {
    pub async fn open(options: &Options) -> Self {
        let socket = TcpStream::connect(&options.address).await.expect("a connection");
        socket.set_nodelay(true).unwrap();
        let (requests, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(socket)
            .await
            .expect("HTTP/2");
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection ended: {error}");
            }
        });
        Self {
            requests,
            uri: format!("http://{}{}", options.address, options.path)
                .parse()
                .expect("an address and a path"),
            timeout: (options.timeout_us != 0).then(|| format!("{}u", options.timeout_us)),
            frame: options.frame.clone(),
        }
    }

    /// One unary call; `intended` is when it should have been sent, now where it is not given.
    pub async fn call(&self, records: &Records, intended: Option<Duration>) {
        let began = records.elapsed();
        let (sent, outcome) = self.exchange(records).await;
        let sent = sent.unwrap_or(began);
        records.add(intended.unwrap_or(began), sent, &outcome);
    }

    async fn exchange(&self, records: &Records) -> (Option<Duration>, String) {
        let (mut body, answer) = match self.begin().await {
            Ok(begun) => begun,
            Err(error) => return (None, broken(&error)),
        };
        let sent = Some(records.elapsed());
        if let Err(error) = body.send_data(self.frame.clone(), true) {
            return (sent, broken(&error));
        }
        let outcome = async {
            let answer = answer.await?;
            // A refusal may come as headers alone.
            let early = status(answer.headers());
            let mut body = answer.into_body();
            while let Some(part) = body.data().await {
                let part = part?;
                body.flow_control().release_capacity(part.len())?;
            }
            let status = body.trailers().await?.and_then(|trailers| status(&trailers));
            Ok(status.or(early).unwrap_or_else(|| format!("{BROKEN} no status")))
        };
        (
            sent,
            outcome.await.unwrap_or_else(|error: h2::Error| broken(&error)),
        )
    }

    /// One stream with up to `in_flight` unanswered messages, until the time has come. Answers come in order.
    pub async fn stream(&self, records: &Rc<Records>, in_flight: usize, until: Instant) {
        let (mut body, answer) = self.begin().await.expect("a stream");
        let free = Rc::new(Semaphore::new(in_flight));
        let (sent, mut sent_times) = mpsc::unbounded_channel();
        let (reading, freed) = (Rc::clone(records), Rc::clone(&free));
        let reader = tokio::task::spawn_local(async move {
            let mut body = answer.await.expect("an answer").into_body();
            let (mut read, mut waiting) = (BytesMut::new(), VecDeque::new());
            while let Some(part) = body.data().await {
                let part = part.expect("a part of the answer");
                body.flow_control().release_capacity(part.len()).unwrap();
                read.extend_from_slice(&part);
                while take_message(&mut read) {
                    while let Ok(time) = sent_times.try_recv() {
                        waiting.push_back(time);
                    }
                    let time = waiting.pop_front().expect("an answer to a message");
                    reading.add(time, time, OK);
                    freed.add_permits(1);
                }
            }
            let trailers = body.trailers().await.expect("trailers");
            let status = trailers.and_then(|trailers| status(&trailers));
            assert_eq!(status.as_deref(), Some(OK), "how the stream ended");
        });
        while Instant::now() < until {
            free.acquire().await.unwrap().forget();
            sent.send(records.elapsed()).unwrap();
            body.send_data(self.frame.clone(), false).expect("an open stream");
        }
        body.send_data(Bytes::new(), true).expect("an open stream");
        reader.await.unwrap();
    }

    async fn begin(&self) -> Result<(SendStream<Bytes>, h2::client::ResponseFuture), h2::Error> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(timeout) = &self.timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let mut ready = self.requests.clone().ready().await?;
        let (answer, body) = ready.send_request(request.body(()).unwrap(), false)?;
        Ok((body, answer))
    }
}

fn broken(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) => format!("{BROKEN} {reason:?}"),
        None => format!("{BROKEN} {error}"),
    }
}

/// The status, and the reason where there is one.
fn status(headers: &HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    let reason = headers
        .get("tickserve-reason")
        .and_then(|reason| reason.to_str().ok());
    Some(match reason {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_owned(),
    })
}

fn take_message(read: &mut BytesMut) -> bool {
    let Some(head) = read.get(..5) else {
        return false;
    };
    let size = 5 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let is_whole = read.len() >= size;
    if is_whole {
        read.advance(size);
    }
    is_whole
}
