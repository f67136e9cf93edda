//! One call on a connection: the messages that come back, and how it ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::Request;

use super::link::{Check, Ended, Interrupted, Link, lock};
use super::status::{Outcome, Status, code};

const PREFIX_BYTES: usize = 5;
/// What is reserved at once for a message that comes in pieces: its length is only what the server says.
const RESERVED_BYTES: usize = 1 << 20;
/// A connection is given up where a call has waited so long and nothing at all has come.
const SILENCE: Duration = Duration::from_secs(5);

/// The answer of a call: its message, or how it ended without.
pub type Answer = Outcome;

/// Both sides of a call that is under way.
#[derive(Debug)]
pub struct Call {
    link: Arc<Link>,
    begun: Instant,
    stream: u32,
    sending: Mutex<Option<SendStream<Bytes>>>,
    receiving: Mutex<Receiving>,
}

/// A message with its prefix, for one frame; `write` appends exactly `size` bytes.
pub fn framed(size: usize, write: impl FnOnce(&mut BytesMut)) -> Option<Bytes> {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + size);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(size).ok()?);
    write(&mut frame);
    Some(frame.freeze())
}

impl Call {
    /// Puts the headers in line, and the only message where one is given. Nothing is sent yet.
    pub(super) fn begin(
        link: &Arc<Link>,
        request: Request<()>,
        message: Option<Bytes>,
        max_bytes: usize,
    ) -> Result<Self, h2::Error> {
        let (response, mut sending) = link.begin(request)?;
        if let Some(frame) = message {
            sending.send_data(frame, true)?;
        }
        Ok(Self {
            link: Arc::clone(link),
            begun: Instant::now(),
            stream: response.stream_id().as_u32(),
            sending: Mutex::new(Some(sending)),
            receiving: Mutex::new(Receiving {
                response: Some(response),
                body: None,
                early: None,
                frame: Bytes::new(),
                joined: BytesMut::new(),
                max_bytes,
                end: None,
            }),
        })
    }

    /// The connection that it is on.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Waits for the one answer.
    pub(super) fn wait_for_answer(&self, end: Instant, check: Check<'_>) -> Result<Outcome, Interrupted> {
        let waited = self.link.wait(Some(end), check, |cx| self.poll_answer(cx));
        self.settle(waited)
    }

    /// Waits for the next message; None at the end of a call that ended well.
    pub fn wait_for_message(&self, check: Check<'_>) -> Result<Result<Option<Bytes>, Status>, Interrupted> {
        let waited = self.link.wait(None, check, |cx| self.poll_message(cx));
        self.settle(waited)
    }

    fn settle<T>(&self, waited: Result<Result<T, Status>, Ended>) -> Result<Result<T, Status>, Interrupted> {
        match waited {
            Ok(done) => Ok(done),
            Err(Ended::Late) => Ok(Err(self.expire())),
            Err(Ended::Interrupted) => {
                self.cancel();
                Err(Interrupted)
            }
        }
    }

    /// Ends a call whose deadline has passed, and says how.
    pub fn expire(&self) -> Status {
        let now = Instant::now();
        if now.duration_since(self.begun) > SILENCE && self.link.facts().is_silent_since(self.begun) {
            // Nobody is there, or nobody that works. The next call looks anew.
            self.link.retire();
        }
        self.cancel();
        // What h2 holds of it may leave yet.
        Status::new(code::DEADLINE_EXCEEDED, "Deadline Exceeded", true)
    }

    /// The one answer. Exactly one message must come.
    pub fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut receiving = lock(&self.receiving);
        let message = ready!(receiving.poll_first(cx));
        let outcome = match message {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Status::new(
                code::INTERNAL,
                "the call ended well, but without an answer",
                true,
            )),
            Err(status) => Err(status),
        };
        Poll::Ready(outcome.map_err(|failed| self.known(failed)))
    }

    /// The next message of a stream; None at its end in good order.
    pub fn poll_message(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let next = ready!(lock(&self.receiving).poll_message(cx));
        Poll::Ready(next.map_err(|failed| self.known(failed)))
    }

    /// With what else is known of the call.
    fn known(&self, mut failed: Status) -> Status {
        if self.link.is_closed() {
            failed.code = code::CANCELLED;
            "Channel closed!".clone_into(&mut failed.message);
        }
        // What is over sends nothing any more, and what the server will not look at stays so.
        if (self.link.is_over() || self.link.facts().is_going_away()) && failed.trailers.is_empty() {
            failed.request_sent &= self.link.facts().may_have_been_seen(self.stream);
        }
        failed
    }

    /// Sends a message, as `framed` makes it; false where the call takes none any more.
    pub fn send(&self, frame: Bytes) -> bool {
        let is_taken = lock(&self.sending)
            .as_mut()
            .is_some_and(|stream| stream.send_data(frame, false).is_ok());
        self.link.flush();
        is_taken
    }

    /// Says that no more messages will be sent.
    pub fn finish(&self) {
        if let Some(mut stream) = lock(&self.sending).take() {
            // It fails where the call is over.
            let _ = stream.send_data(Bytes::new(), true);
        }
        self.link.flush();
    }

    /// Ends both directions.
    pub fn cancel(&self) {
        if let Some(stream) = lock(&self.sending).as_mut() {
            stream.send_reset(Reason::CANCEL);
        }
        self.link.flush();
    }
}

#[derive(Debug)]
struct Receiving {
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// A status among the headers, which holds where no trailers follow.
    early: Option<Status>,
    /// What is left of the last frame, unless `joined` has anything.
    frame: Bytes,
    /// A message that has begun and spans frames.
    joined: BytesMut,
    max_bytes: usize,
    /// How it ended, once it has.
    end: Option<Result<(), Status>>,
}

impl Receiving {
    /// The first message, once the call has ended well behind it.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        // A whole message stays in `frame` or `joined` until the end has come, which most often came with it.
        loop {
            if let Some(end) = &self.end {
                return Poll::Ready(match end.clone() {
                    Err(status) => Err(status),
                    Ok(()) => match self.split()? {
                        Some(message) => Ok(Some(message)),
                        None if self.is_between() => Ok(None),
                        None => Err(cut()),
                    },
                });
            }
            ready!(self.poll_more(cx));
            // Neither a message over the bound nor more than one is gathered.
            if self
                .check_bound()?
                .is_some_and(|size| self.gathered().len() > PREFIX_BYTES + size)
            {
                return Poll::Ready(Err(Status::new(
                    code::INTERNAL,
                    "more than one answer came",
                    true,
                )));
            }
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.split()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match self.end.clone() {
                Some(Err(status)) => return Poll::Ready(Err(status)),
                Some(Ok(())) if self.is_between() => return Poll::Ready(Ok(None)),
                Some(Ok(())) => return Poll::Ready(Err(cut())),
                None => ready!(self.poll_more(cx)),
            }
        }
    }

    /// Takes one step: the head, some data, or the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(body) = self.body.as_mut() {
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Cannot exceed what came.
                    let _ = body.flow_control().release_capacity(data.len());
                    self.push(data);
                }
                Some(Err(error)) => self.end = Some(Err(Status::broken(&error, true))),
                None => {
                    let said = match ready!(body.poll_trailers(cx)) {
                        Ok(trailers) => trailers
                            .as_ref()
                            .and_then(Status::read)
                            .or_else(|| self.early.take()),
                        Err(error) => Some(Status::broken(&error, true)),
                    };
                    self.end = Some(match said {
                        Some(status) if status.code == code::OK => Ok(()),
                        Some(status) => Err(status),
                        None => Err(Status::new(
                            code::UNKNOWN,
                            "the answer ended without a status",
                            true,
                        )),
                    });
                }
            }
            return Poll::Ready(());
        }
        let Some(response) = self.response.as_mut() else {
            self.end = Some(Err(Status::new(code::INTERNAL, "the call has ended", true)));
            return Poll::Ready(());
        };
        let answered = ready!(Pin::new(response).poll(cx));
        self.response = None;
        match answered {
            Err(error) => self.end = Some(Err(Status::broken(&error, true))),
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let status = Status::read(&parts.headers);
                match (Status::of_head(parts.status, &parts.headers), status) {
                    (Some(foreign), None) => self.end = Some(Err(foreign)),
                    (_, status) => {
                        self.early = status;
                        self.body = Some(body);
                    }
                }
            }
        }
        Poll::Ready(())
    }

    fn is_between(&self) -> bool {
        self.frame.is_empty() && self.joined.is_empty()
    }

    fn push(&mut self, data: Bytes) {
        if self.is_between() {
            self.frame = data;
            return;
        }
        if self.joined.is_empty() {
            let first = std::mem::take(&mut self.frame);
            let said = first.first_chunk::<PREFIX_BYTES>().map_or(0, size_of);
            self.joined
                .reserve(said.min(RESERVED_BYTES).max(first.len() + data.len()));
            self.joined.extend_from_slice(&first);
        }
        self.joined.extend_from_slice(&data);
    }

    fn gathered(&self) -> &[u8] {
        if self.joined.is_empty() {
            &self.frame
        } else {
            &self.joined
        }
    }

    /// Refuses a message for its prefix, before the rest of it comes.
    fn check_bound(&self) -> Result<Option<usize>, Status> {
        let Some(prefix) = self.gathered().first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let size = size_of(prefix);
        match prefix[0] {
            0 if size > self.max_bytes => Err(Status::new(
                code::RESOURCE_EXHAUSTED,
                format!(
                    "the answer has {size} bytes, at most {} are taken",
                    self.max_bytes
                ),
                true,
            )),
            0 => Ok(Some(size)),
            1 => Err(Status::new(
                code::INTERNAL,
                "the answer is compressed, which was not asked for",
                true,
            )),
            _ => Err(Status::new(
                code::INTERNAL,
                "a message begins with neither 0 nor 1",
                true,
            )),
        }
    }

    /// Takes one whole message out of what came.
    fn split(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(size) = self.check_bound()? else {
            return Ok(None);
        };
        if self.gathered().len() < PREFIX_BYTES + size {
            return Ok(None);
        }
        Ok(Some(if self.joined.is_empty() {
            self.frame.advance(PREFIX_BYTES);
            self.frame.split_to(size)
        } else {
            self.joined.advance(PREFIX_BYTES);
            self.joined.split_to(size).freeze()
        }))
    }
}

fn size_of(prefix: &[u8; PREFIX_BYTES]) -> usize {
    u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize
}

fn cut() -> Status {
    Status::new(code::INTERNAL, "the call ended inside a message", true)
}
