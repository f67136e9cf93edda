//! One call for each request.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tokio::time::timeout;

use super::channel::{Channel, foreign, headers};
use super::outcome::Outcome;
use super::pace::Caller;
use super::records::{Records, Times};
use super::{Options, framed};

/// Calls on one connection.
#[derive(Clone)]
pub(super) struct UnaryCaller {
    channel: Rc<Channel>,
    frames: Rc<[Bytes]>,
    headers: Rc<HeaderMap>,
    deadline: Duration,
}

/// How a call ended, with what it said.
pub(super) struct Answer {
    pub outcome: Outcome,
    pub message: String,
    pub body: Bytes,
}

impl UnaryCaller {
    pub fn new(options: &Options, channel: &Rc<Channel>) -> Self {
        Self {
            channel: Rc::clone(channel),
            frames: options.messages.iter().map(|message| framed(message)).collect(),
            headers: Rc::new(headers(Some(options.deadline))),
            deadline: options.deadline,
        }
    }

    /// Makes the call, and keeps its answer.
    pub async fn ask(&self, number: usize) -> Answer {
        let mut kept = Kept::default();
        let exchange = self.exchange(number, || {}, &mut kept);
        let outcome = timeout(self.deadline, exchange)
            .await
            .unwrap_or(Outcome::NoAnswer);
        let body = kept.body.split_off(kept.body.len().min(5)).freeze();
        Answer {
            outcome,
            message: kept.message,
            body,
        }
    }

    async fn exchange(&self, number: usize, on_sent: impl FnOnce(), sink: &mut impl Sink) -> Outcome {
        let (mut body, answer) = match self.channel.begin(&self.headers).await {
            Ok(begun) => begun,
            Err(outcome) => return outcome,
        };
        let frame = self.frames[number % self.frames.len()].clone();
        if let Err(error) = body.send_data(frame, true) {
            return Outcome::broken(&error);
        }
        on_sent();
        read(answer, sink)
            .await
            .unwrap_or_else(|error| Outcome::broken(&error))
    }
}

impl Caller for UnaryCaller {
    async fn call(&self, records: &Records, number: usize, times: Times) -> bool {
        let _counted = self.channel.count();
        let sent = std::cell::Cell::new(None);
        let mut size = Size(0);
        let exchange = self.exchange(number, || sent.set(Some(records.elapsed())), &mut size);
        let outcome = timeout(self.deadline, exchange)
            .await
            .unwrap_or(Outcome::NoAnswer);
        records.add(times, sent.get(), outcome)
    }
}

async fn read(answer: h2::client::ResponseFuture, sink: &mut impl Sink) -> Result<Outcome, h2::Error> {
    let answer = answer.await?;
    // A refusal may come as headers alone.
    let early = Outcome::of(answer.headers());
    if early.is_some() {
        sink.said(answer.headers());
    }
    let status = answer.status();
    let mut body = answer.into_body();
    if early.is_none() && status != http::StatusCode::OK {
        return Ok(foreign(status, &body));
    }
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        sink.take(&part);
    }
    let trailers = body.trailers().await?;
    if let Some(trailers) = &trailers {
        sink.said(trailers);
    }
    let outcome = trailers.and_then(|trailers| Outcome::of(&trailers)).or(early);
    Ok(match outcome {
        Some(Outcome::Answered) if !sink.is_message() => {
            Outcome::Broken("OK, but no whole message".to_owned())
        }
        Some(outcome) => outcome,
        None => Outcome::Broken("the call ended without a status".to_owned()),
    })
}

/// Where the answer goes.
trait Sink {
    fn take(&mut self, part: &[u8]);
    fn said(&mut self, headers: &HeaderMap);
    fn is_message(&self) -> bool;
}

/// Of an answer only the size.
struct Size(usize);

impl Sink for Size {
    fn take(&mut self, part: &[u8]) {
        self.0 += part.len();
    }

    fn said(&mut self, _headers: &HeaderMap) {}

    fn is_message(&self) -> bool {
        self.0 >= 5
    }
}

#[derive(Default)]
struct Kept {
    body: BytesMut,
    message: String,
}

impl Sink for Kept {
    fn take(&mut self, part: &[u8]) {
        self.body.extend_from_slice(part);
    }

    fn said(&mut self, headers: &HeaderMap) {
        if let Some(message) = headers.get("grpc-message") {
            self.message = String::from_utf8_lossy(message.as_bytes()).into_owned();
        }
    }

    fn is_message(&self) -> bool {
        self.body.len() >= 5
    }
}
