//! How a call ended that brought no answer, and what the wire says of it.

use std::fmt;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, StatusCode};

/// Status codes of gRPC that this client itself gives.
pub mod code {
    /// No error.
    pub const OK: u32 = 0;
    /// Someone took the call back.
    pub const CANCELLED: u32 = 1;
    /// Nobody says what it was.
    pub const UNKNOWN: u32 = 2;
    /// The time was over.
    pub const DEADLINE_EXCEEDED: u32 = 4;
    /// The server's HTTP refused it.
    pub const PERMISSION_DENIED: u32 = 7;
    /// Something was too large, or too much.
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    /// No such service.
    pub const UNIMPLEMENTED: u32 = 12;
    /// The other side broke the protocol.
    pub const INTERNAL: u32 = 13;
    /// There is no connection, or no more.
    pub const UNAVAILABLE: u32 = 14;
    /// The server's HTTP knows the caller not.
    pub const UNAUTHENTICATED: u32 = 16;
}

/// The end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Of gRPC.
    pub code: u32,
    /// For people.
    pub message: String,
    /// What the server said besides, names in lower case; those in binary are left out.
    pub trailers: Vec<(String, String)>,
    /// False only where the server certainly has not looked at the call and never will.
    pub request_sent: bool,
}

impl Status {
    pub(super) fn new(code: u32, message: impl Into<String>, request_sent: bool) -> Self {
        Self {
            code,
            message: message.into(),
            trailers: Vec::new(),
            request_sent,
        }
    }

    /// Before anything was sent.
    pub(super) fn unsent(code: u32, message: impl Into<String>) -> Self {
        Self::new(code, message, false)
    }

    /// What trailers, or headers that stand for them, say; None where they say nothing.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let said = headers.get("grpc-status")?;
        // What is no number says that something is wrong, but not what.
        let code = said
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(code::UNKNOWN);
        let message = headers
            .get("grpc-message")
            .map_or(String::new(), |text| percent_decode(text.as_bytes()));
        let mut status = Self::new(code, message, true);
        if code != code::OK {
            for (name, value) in headers {
                let is_ours = name.as_str().starts_with("grpc-") || name.as_str().ends_with("-bin");
                if let (false, Ok(value)) = (is_ours, value.to_str()) {
                    status.trailers.push((name.as_str().to_owned(), value.to_owned()));
                }
            }
        }
        Some(status)
    }

    /// What an answer means that is none of gRPC; None where it is one.
    pub(super) fn of_head(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let is_grpc = headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if status == StatusCode::OK {
            return (!is_grpc).then(|| {
                let kind = headers
                    .get(http::header::CONTENT_TYPE)
                    .map_or(&b"none"[..], |kind| kind.as_bytes());
                Self::new(
                    code::UNKNOWN,
                    format!(
                        "the answer is not one of gRPC: its content-type is {}",
                        String::from_utf8_lossy(kind)
                    ),
                    true,
                )
            });
        }
        let code = match status.as_u16() {
            400 => code::INTERNAL,
            401 => code::UNAUTHENTICATED,
            403 => code::PERMISSION_DENIED,
            404 => code::UNIMPLEMENTED,
            429 | 502..=504 => code::UNAVAILABLE,
            _ => code::UNKNOWN,
        };
        Some(Self::new(
            code,
            format!("Received http2 header with status: {}", status.as_u16()),
            true,
        ))
    }

    /// What h2 says of a stream or connection; `may_be_seen` is what the frames say.
    pub(super) fn broken(error: &h2::Error, may_be_seen: bool) -> Self {
        let Some(reason) = error.reason() else {
            return Self::new(code::UNAVAILABLE, error.to_string(), may_be_seen);
        };
        if error.is_go_away() && error.is_remote() {
            let message = format!("the server closed the connection: {}", error);
            return Self::new(code::UNAVAILABLE, message, may_be_seen);
        }
        let (code, is_refused) = match reason {
            Reason::REFUSED_STREAM => (code::UNAVAILABLE, error.is_remote()),
            Reason::CANCEL => (code::CANCELLED, false),
            Reason::ENHANCE_YOUR_CALM => (code::RESOURCE_EXHAUSTED, false),
            Reason::INADEQUATE_SECURITY => (code::PERMISSION_DENIED, false),
            _ => (code::INTERNAL, false),
        };
        Self::new(
            code,
            format!("the stream was reset: {error}"),
            may_be_seen && !is_refused,
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

/// `grpc-message` as people read it: what is no escape stays, what is no UTF-8 is replaced.
fn percent_decode(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = &after[2..];
            }
            None => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// The message of an answer, or how the call ended without.
pub(super) type Outcome = Result<Bytes, Status>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_are_read_and_what_is_none_stays() {
        assert_eq!(
            percent_decode(b"so it is: %C3%A9 100% %zz %4"),
            "so it is: \u{e9} 100% %zz %4"
        );
        assert_eq!(percent_decode(b"%ff"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn whatever_is_escaped_is_read_again(text in ".*") {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(percent_decode(escaped.as_bytes()), text);
        }

        #[test]
        fn nothing_panics(text in prop::collection::vec(any::<u8>(), 0..64)) {
            percent_decode(&text);
        }
    }

    #[test]
    fn a_status_that_is_no_number_is_unknown() {
        let mut headers = HeaderMap::new();
        assert_eq!(Status::read(&headers), None);
        headers.insert("grpc-status", "five".parse().unwrap());
        assert_eq!(Status::read(&headers).unwrap().code, code::UNKNOWN);
    }
}
