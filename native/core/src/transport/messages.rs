//! The messages of one call as they come in: found in the frames, bounded, and uncompressed.

use std::future::poll_fn;
use std::io::Read;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use h2::RecvStream;
use tokio::time::Sleep;

use super::budget::Held;
use super::head::Encoding;
use super::reply::Ending;
use super::turn::Turn;

const PREFIX_BYTES: usize = 5;
/// What is uncompressed between two looks at the clock.
const INFLATED_BYTES: usize = 64 << 10;
/// A message that has begun must bring so much in each stall timeout.
const STALL_BYTES: usize = 4 << 10;

/// Reads the messages of a call, one at a time; a message that came in one frame is not copied.
pub(super) struct Messages {
    body: RecvStream,
    /// What is left of the last frame, unless `joined` has anything.
    frame: Bytes,
    /// Several frames, from where a message began that spans them.
    joined: BytesMut,
    inflating: Option<Inflating>,
    encoding: Encoding,
    max_bytes: usize,
    turn: Rc<Turn>,
    is_single: bool,
    stall: Stall,
    /// What came of a message when it was last waited for; kept until the next one, since the request lives as long.
    held: Held,
}

impl Messages {
    /// Of a call with one message where `is_single`: that one is due from the start.
    pub(super) fn new(
        body: RecvStream,
        encoding: Encoding,
        is_single: bool,
        max_bytes: usize,
        stall_timeout: Duration,
        turn: Rc<Turn>,
        held: Held,
    ) -> Self {
        Self {
            body,
            frame: Bytes::new(),
            joined: BytesMut::new(),
            inflating: None,
            encoding,
            max_bytes,
            turn,
            is_single,
            stall: Stall {
                timeout: stall_timeout,
                sleep: None,
                bytes: 0,
            },
            held,
        }
    }

    /// The next message, None at the end of the call's.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Ending> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same; a message that has begun must go on coming.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ending>> {
        loop {
            if let Some(inflating) = &mut self.inflating {
                let Poll::Ready(message) = inflating.poll(cx, self.max_bytes, &self.turn) else {
                    let bytes = self.frame.len() + self.joined.len() + inflating.message.len();
                    return match self.held.hold(bytes) {
                        Ok(()) => Poll::Pending,
                        Err(ending) => Poll::Ready(Err(ending)),
                    };
                };
                self.inflating = None;
                return Poll::Ready(message.map(Some));
            }
            match self.split() {
                Ok(Some((false, message))) => return Poll::Ready(Ok(Some(message))),
                Ok(Some((true, message))) => match Inflating::new(message, self.encoding) {
                    Ok(inflating) => self.inflating = Some(inflating),
                    Err(ending) => return Poll::Ready(Err(ending)),
                },
                Ok(None) => match self.body.poll_data(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        // Cannot exceed what came.
                        let _ = self.body.flow_control().release_capacity(frame.len());
                        self.stall.note_read(frame.len());
                        self.push(frame);
                    }
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Ending::Gone)),
                    Poll::Ready(None) if self.is_between() => return Poll::Ready(Ok(None)),
                    Poll::Ready(None) => {
                        return Poll::Ready(Err(Ending::Status(13, "the call ended inside a message")));
                    }
                    Poll::Pending if self.is_between() && !self.is_single => {
                        // Less than what it holds is always granted.
                        let _ = self.held.hold(0);
                        return Poll::Pending;
                    }
                    Poll::Pending => {
                        if let Err(ending) = self.held.hold(self.frame.len() + self.joined.len()) {
                            return Poll::Ready(Err(ending));
                        }
                        return self.stall.poll(cx).map(Err);
                    }
                },
                Err(ending) => return Poll::Ready(Err(ending)),
            }
        }
    }

    /// Whether no message has begun.
    fn is_between(&self) -> bool {
        self.frame.is_empty() && self.joined.is_empty()
    }

    fn push(&mut self, frame: Bytes) {
        if self.is_between() {
            self.frame = frame;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&std::mem::take(&mut self.frame));
        }
        self.joined.extend_from_slice(&frame);
    }

    /// Takes one whole message out of what came, with whether it is compressed.
    fn split(&mut self) -> Result<Option<(bool, Bytes)>, Ending> {
        let came = if self.joined.is_empty() {
            &self.frame[..]
        } else {
            &self.joined[..]
        };
        let Some((&[flag, ref size @ ..], rest)) = came.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let is_compressed = match flag {
            0 => false,
            1 if self.encoding != Encoding::Identity => true,
            1 => {
                return Err(Ending::Status(
                    13,
                    "a message is compressed, but grpc-encoding does not say how",
                ));
            }
            _ => return Err(Ending::Status(13, "a message begins with neither 0 nor 1")),
        };
        let size = u32::from_be_bytes(*size) as usize;
        if size > self.max_bytes {
            return Err(too_large());
        }
        if rest.len() < size {
            return Ok(None);
        }
        self.stall.clear();
        let message = if self.joined.is_empty() {
            self.frame.advance(PREFIX_BYTES);
            self.frame.split_to(size)
        } else {
            self.joined.advance(PREFIX_BYTES);
            self.joined.split_to(size).freeze()
        };
        Ok(Some((is_compressed, message)))
    }
}

fn too_large() -> Ending {
    Ending::Status(8, "the message is over the size bound")
}

/// The clock of a message that has begun and is not whole.
struct Stall {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    bytes: usize,
}

impl Stall {
    fn note_read(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= STALL_BYTES {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes = 0;
        self.sleep = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Ending::Status(1, "the rest of a message did not come"))
    }
}

/// A compressed message on its way to its bytes, a piece at a time: a bomb costs others no more than its turns.
struct Inflating {
    decoder: Box<dyn Read>,
    message: Vec<u8>,
}

impl Inflating {
    fn new(message: Bytes, encoding: Encoding) -> Result<Self, Ending> {
        let decoder: Box<dyn Read> = match encoding {
            Encoding::Gzip => Box::new(GzDecoder::new(message.reader())),
            Encoding::Deflate => Box::new(ZlibDecoder::new(message.reader())),
            Encoding::Identity => {
                return Err(Ending::Status(13, "a message is compressed, and its call is not"));
            }
        };
        Ok(Self {
            decoder,
            message: Vec::new(),
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>, max_bytes: usize, turn: &Turn) -> Poll<Result<Bytes, Ending>> {
        loop {
            let before = self.message.len();
            let piece = (max_bytes + 1 - before).min(INFLATED_BYTES) as u64;
            if self
                .decoder
                .by_ref()
                .take(piece)
                .read_to_end(&mut self.message)
                .is_err()
            {
                return Poll::Ready(Err(Ending::Status(
                    13,
                    "a compressed message does not decompress",
                )));
            }
            if self.message.len() > max_bytes {
                return Poll::Ready(Err(too_large()));
            }
            if self.message.len() == before {
                return Poll::Ready(Ok(Bytes::from(std::mem::take(&mut self.message))));
            }
            if turn.is_long(Instant::now()) {
                // Wakes this task in the next turn.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
        }
    }
}
