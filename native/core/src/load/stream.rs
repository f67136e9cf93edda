//! Messages of one stream on each connection, opened again by the next request where it has ended.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use h2::client::ResponseFuture;
use tokio::sync::{Mutex, Notify, oneshot};
use tokio::time::timeout;

use super::answers::{numbered, take_message, understand};
use super::channel::{Channel, foreign, headers};
use super::outcome::Outcome;
use super::pace::Caller;
use super::records::{Records, Times};
use super::{Options, Travel};

/// How long the server has to end a stream that its client has ended.
const CLOSE: Duration = Duration::from_secs(1);

/// Sends over the stream of one connection.
#[derive(Clone)]
pub(super) struct StreamCaller(Rc<Inner>);

struct Inner {
    channel: Rc<Channel>,
    messages: Vec<Bytes>,
    travel: Travel,
    deadline: Duration,
    stream: RefCell<Option<Rc<Stream>>>,
    opening: Mutex<()>,
    last_number: Cell<u64>,
}

struct Stream {
    body: RefCell<SendStream<Bytes>>,
    /// Oldest first. Who gave up waiting has dropped the other end, and is found here until the answer has come.
    unanswered: RefCell<VecDeque<(u64, oneshot::Sender<Outcome>)>>,
    over: Notify,
}

impl StreamCaller {
    pub fn new(options: &Options, channel: &Rc<Channel>) -> Self {
        Self(Rc::new(Inner {
            channel: Rc::clone(channel),
            messages: options.messages.clone(),
            travel: options.travel,
            deadline: options.deadline,
            stream: RefCell::default(),
            opening: Mutex::default(),
            last_number: Cell::default(),
        }))
    }

    /// Ends the stream, and gives the server a moment to end it in good order.
    pub async fn close(&self) {
        let stream = self.0.stream.borrow().clone();
        if let Some(stream) = stream
            && stream.body.borrow_mut().send_data(Bytes::new(), true).is_ok()
        {
            drop(timeout(CLOSE, stream.over.notified()).await);
        }
    }

    async fn exchange(&self, number: usize, on_sent: impl FnOnce()) -> Outcome {
        let stream = match self.stream().await {
            Ok(stream) => stream,
            Err(outcome) => return outcome,
        };
        let id = self.0.last_number.get() + 1;
        self.0.last_number.set(id);
        let message = &self.0.messages[number % self.0.messages.len()];
        let frame = numbered(self.0.travel, message, id);
        let (sender, answer) = oneshot::channel();
        stream.unanswered.borrow_mut().push_back((id, sender));
        let sending = stream.body.borrow_mut().send_data(frame, false);
        if sending.is_err() {
            // The reader knows why, or will.
            self.forget(&stream);
        } else {
            on_sent();
        }
        answer
            .await
            .unwrap_or_else(|_| Outcome::Broken("the stream ended".to_owned()))
    }

    async fn stream(&self) -> Result<Rc<Stream>, Outcome> {
        let _one_opens = self.0.opening.lock().await;
        if let Some(stream) = &*self.0.stream.borrow() {
            return Ok(Rc::clone(stream));
        }
        let (body, answer) = self.0.channel.begin(&headers(None)).await?;
        let stream = Rc::new(Stream {
            body: RefCell::new(body),
            unanswered: RefCell::default(),
            over: Notify::new(),
        });
        self.0.stream.replace(Some(Rc::clone(&stream)));
        let (caller, reading) = (self.clone(), Rc::clone(&stream));
        tokio::task::spawn_local(async move {
            let why = reading
                .read(caller.0.travel, answer)
                .await
                .unwrap_or_else(|error| Outcome::broken(&error));
            caller.forget(&reading);
            for (_, waiting) in reading.unanswered.take() {
                drop(waiting.send(why.clone()));
            }
            reading.over.notify_one();
        });
        Ok(stream)
    }

    /// The next request opens another stream.
    fn forget(&self, ended: &Rc<Stream>) {
        let mut held = self.0.stream.borrow_mut();
        if held.as_ref().is_some_and(|stream| Rc::ptr_eq(stream, ended)) {
            *held = None;
        }
    }
}

impl Caller for StreamCaller {
    async fn call(&self, records: &Records, number: usize, times: Times) -> bool {
        let sent = Cell::new(None);
        let exchange = self.exchange(number, || sent.set(Some(records.elapsed())));
        let outcome = timeout(self.0.deadline, exchange)
            .await
            .unwrap_or(Outcome::NoAnswer);
        records.add(times, sent.get(), outcome)
    }
}

impl Stream {
    /// Hands answers out until the stream is over, and says why it is.
    async fn read(&self, travel: Travel, answer: ResponseFuture) -> Result<Outcome, h2::Error> {
        let answer = answer.await?;
        if let Some(refused) = Outcome::of(answer.headers()) {
            return Ok(ended(refused));
        }
        let status = answer.status();
        let mut body = answer.into_body();
        if status != http::StatusCode::OK {
            return Ok(foreign(status, &body));
        }
        let mut read = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            read.extend_from_slice(&part);
            while let Some(message) = take_message(&mut read) {
                if !self.take(travel, &message) {
                    return Ok(Outcome::Broken(
                        "an answer on the stream that is no one's".to_owned(),
                    ));
                }
            }
        }
        let trailers = body.trailers().await?;
        Ok(match trailers.and_then(|trailers| Outcome::of(&trailers)) {
            Some(outcome) => ended(outcome),
            None => Outcome::Broken("the stream ended without a status".to_owned()),
        })
    }

    fn take(&self, travel: Travel, message: &[u8]) -> bool {
        let Some((number, outcome)) = understand(travel, message) else {
            return false;
        };
        let mut unanswered = self.unanswered.borrow_mut();
        // Servers that run several at once answer out of turn.
        let Some(index) = unanswered.iter().position(|(waiting, _)| *waiting == number) else {
            return false;
        };
        if let Some((_, waiting)) = unanswered.remove(index) {
            drop(waiting.send(outcome));
        }
        true
    }
}

/// A stream that ends well answers nothing that is still open.
fn ended(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Answered => Outcome::Broken("the server ended the stream".to_owned()),
        other => other,
    }
}
