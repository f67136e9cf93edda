//! Answers and refusals as HTTP/2 frames: what leaves on a stream.

use std::fmt::Write;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::SendStream;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{HeaderName, Response};

use super::budget::{Budget, Held};
use super::meter::Meter;
use crate::refusal::{Reason, Refusal};

/// How a call ends, other than by its answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ending {
    /// A refusal, with its trailers.
    Refused(Refusal),
    /// A status of gRPC's own, by number.
    Status(i32, &'static str),
    /// Without any: what came is no call.
    Reset(h2::Reason),
    /// The client is gone.
    Gone,
}

/// A message behind its prefix: not compressed, and so many bytes. It leaves without being copied.
#[derive(Debug)]
pub(super) struct Framed {
    prefix: [u8; 5],
    prefix_sent: usize,
    message: Bytes,
    /// Where it is large: until the client has taken it.
    _held: Option<Held>,
}

impl Framed {
    /// None where a prefix cannot say the size.
    fn new(message: Bytes, held: Option<Held>) -> Option<Self> {
        let mut prefix = [0; 5];
        prefix[1..].copy_from_slice(&u32::try_from(message.len()).ok()?.to_be_bytes());
        Some(Self {
            prefix,
            prefix_sent: 0,
            message,
            _held: held,
        })
    }
}

impl Buf for Framed {
    fn remaining(&self) -> usize {
        self.prefix.len() - self.prefix_sent + self.message.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.prefix_sent < self.prefix.len() {
            &self.prefix[self.prefix_sent..]
        } else {
            &self.message
        }
    }

    fn advance(&mut self, count: usize) {
        let of_prefix = count.min(self.prefix.len() - self.prefix_sent);
        self.prefix_sent += of_prefix;
        self.message.advance(count - of_prefix);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let chunks = [&self.prefix[self.prefix_sent..], &self.message[..]];
        let mut used = 0;
        for (slice, chunk) in slices
            .iter_mut()
            .zip(chunks.into_iter().filter(|chunk| !chunk.is_empty()))
        {
            *slice = IoSlice::new(chunk);
            used += 1;
        }
        used
    }
}

/// An answer that the window takes whole is as good as sent, and its share is not worth an atomic.
const SMALL_BYTES: usize = 4 << 10;

/// The sending half of a call. Headers leave with the first message, so that a refusal before it is trailers only.
pub(super) struct Reply {
    respond: SendResponse<Framed>,
    stream: Option<SendStream<Framed>>,
    meter: Rc<Meter>,
    budget: Rc<Budget>,
    max_message_bytes: usize,
}

impl Reply {
    pub(super) fn new(
        respond: SendResponse<Framed>,
        meter: Rc<Meter>,
        budget: &Rc<Budget>,
        max_message_bytes: usize,
    ) -> Self {
        Self {
            respond,
            stream: None,
            meter,
            budget: Rc::clone(budget),
            max_message_bytes,
        }
    }

    /// Puts one message in line.
    pub(super) fn send(&mut self, message: Bytes) -> Result<(), Ending> {
        if message.len() > self.max_message_bytes {
            return Err(Ending::Status(8, "the answer is over the size bound of messages"));
        }
        let held = (message.len() > SMALL_BYTES).then(|| Held::new(&self.budget));
        let held = held
            .map(|mut held| held.hold(message.len()).map(|()| held))
            .transpose()?;
        let framed = Framed::new(message, held).ok_or(Ending::Status(8, "the answer is over 4 GB"))?;
        self.meter.note_sent();
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let mut response = Response::new(());
                *response.headers_mut() = headers();
                let stream = self
                    .respond
                    .send_response(response, false)
                    .map_err(|_| Ending::Gone)?;
                self.stream.insert(stream)
            }
        };
        stream.send_data(framed, false).map_err(|_| Ending::Gone)
    }

    /// Ready when the client takes more than what is in line.
    pub(super) fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Ok(()));
        };
        stream.reserve_capacity(1);
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Ending::Gone)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the call with OK.
    pub(super) fn finish(self) {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        self.close(trailers);
    }

    /// Ends the call otherwise.
    pub(super) fn end(mut self, ending: Ending) {
        match ending {
            Ending::Refused(refusal) => self.close(refused(&refusal)),
            Ending::Status(code, message) => self.close(status(code, message)),
            Ending::Reset(reason) => self.respond.send_reset(reason),
            // Nobody reads what would be sent; dropping the stream resets it.
            Ending::Gone => {}
        }
    }

    /// Whether the client took the call back; wakes when it does.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(cx).is_ready(),
            None => self.respond.poll_reset(cx).is_ready(),
        }
    }

    fn close(mut self, trailers: HeaderMap) {
        self.meter.note_sent();
        // An error means that the client is gone, and so is whom to tell.
        let _ = match &mut self.stream {
            Some(stream) => stream.send_trailers(trailers),
            None => {
                let mut response = Response::new(());
                *response.headers_mut() = trailers;
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                self.respond.send_response(response, true).map(|_| ())
            }
        };
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const EXECUTED: HeaderName = HeaderName::from_static("tickserve-executed");
const REASON: HeaderName = HeaderName::from_static("tickserve-reason");
const FIELD: HeaderName = HeaderName::from_static("tickserve-field");

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(
        GRPC_ACCEPT_ENCODING,
        HeaderValue::from_static("identity, deflate, gzip"),
    );
    headers
}

fn status(code: i32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(6);
    trailers.insert(GRPC_STATUS, HeaderValue::from(code));
    insert_text(
        &mut trailers,
        GRPC_MESSAGE,
        &escaped(message, |byte| matches!(byte, b' '..=b'~') && byte != b'%'),
    );
    trailers
}

fn refused(refusal: &Refusal) -> HeaderMap {
    let mut trailers = status(refusal.code, &refusal.message);
    trailers.insert(
        EXECUTED,
        HeaderValue::from_static(if refusal.executed { "1" } else { "0" }),
    );
    if let Some(reason) = refusal.reason {
        trailers.insert(REASON, HeaderValue::from_static(name(reason)));
    }
    insert_text(&mut trailers, FIELD, &escaped(&refusal.field, is_plain));
    trailers
}

/// Empty texts are left out.
fn insert_text(trailers: &mut HeaderMap, header: HeaderName, text: &str) {
    if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_str(text)) {
        trailers.insert(header, value);
    }
}

/// What Python's `urllib.parse.quote` leaves as it is.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'~' | b'/')
}

/// Percent-encodes the bytes that are not plain.
fn escaped(text: &str, is_plain: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_plain(byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The name of `tickserve.v1.Reason` without its prefix.
fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::Overloaded => "OVERLOADED",
        Reason::RateLimited => "RATE_LIMITED",
        Reason::Draining => "DRAINING",
        Reason::Loading => "LOADING",
        Reason::Halted => "HALTED",
        Reason::StaleInput => "STALE_INPUT",
        Reason::OutputRule => "OUTPUT_RULE",
        Reason::FeaturesChanged => "FEATURES_CHANGED",
        Reason::PinRefused => "PIN_REFUSED",
        Reason::InvalidInput => "INVALID_INPUT",
        Reason::NotFound => "NOT_FOUND",
        Reason::Deadline => "DEADLINE",
        Reason::Internal => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_quoted_as_python_does() {
        // urllib.parse.quote("prix €/a b~c_d.e-f%\n")
        assert_eq!(
            escaped("prix €/a b~c_d.e-f%\n", is_plain),
            "prix%20%E2%82%AC/a%20b~c_d.e-f%25%0A"
        );
    }

    #[test]
    fn reasons_have_the_names_of_the_protocol() {
        use crate::wire::tickserve::v1::Reason as Wire;
        for number in 1..=13 {
            let wire = Wire::try_from(number).unwrap();
            let ours = [
                Reason::Overloaded,
                Reason::RateLimited,
                Reason::Draining,
                Reason::Loading,
                Reason::Halted,
                Reason::StaleInput,
                Reason::OutputRule,
                Reason::FeaturesChanged,
                Reason::PinRefused,
                Reason::InvalidInput,
                Reason::NotFound,
                Reason::Deadline,
                Reason::Internal,
            ]
            .into_iter()
            .find(|reason| *reason as i32 == number)
            .unwrap();
            assert_eq!(wire.as_str_name(), format!("REASON_{}", name(ours)));
        }
    }

    #[test]
    fn a_refusal_says_why() {
        let trailers = refused(&Refusal {
            code: 3,
            reason: Some(Reason::InvalidInput),
            message: "100% wrong: é\n".to_owned(),
            field: "a b".to_owned(),
            executed: true,
            request_id: "r".to_owned(),
        });
        assert_eq!(trailers["grpc-status"], "3");
        assert_eq!(trailers["grpc-message"], "100%25 wrong: %C3%A9%0A");
        assert_eq!(trailers["tickserve-executed"], "1");
        assert_eq!(trailers["tickserve-reason"], "INVALID_INPUT");
        assert_eq!(trailers["tickserve-field"], "a%20b");
    }

    proptest! {
        #[test]
        fn a_framed_message_is_its_prefix_and_itself(message in prop::collection::vec(any::<u8>(), 0..600), cut in 0usize..700) {
            let mut whole = vec![0];
            whole.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            whole.extend(&message);
            let mut framed = Framed::new(Bytes::from(message), None).unwrap();
            let cut = cut.min(framed.remaining());
            framed.advance(cut);
            let mut slices = [IoSlice::new(&[]); 4];
            let used = framed.chunks_vectored(&mut slices);
            prop_assert_eq!(slices[..used].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>(), &whole[cut..]);
            prop_assert_eq!(framed.copy_to_bytes(framed.remaining()), &whole[cut..]);
        }
    }
}
