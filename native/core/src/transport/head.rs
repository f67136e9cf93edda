//! What the headers of a call ask for: which route, until when, and how its messages are compressed.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method, request};

use super::reply::Ending;
use super::routes::Route;

/// How a call's messages may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

/// The headers of a call, read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) route: Route,
    pub(super) deadline: Option<Instant>,
    pub(super) encoding: Encoding,
}

impl Head {
    /// Reads the headers of a call that came at `arrived`. The statuses are those of gRPC's own server, which minds
    /// neither the content type nor `te`.
    pub(super) fn read(parts: &request::Parts, arrived: Instant) -> Result<Self, Ending> {
        if parts.method != Method::POST {
            return Err(Ending::Reset(h2::Reason::INTERNAL_ERROR));
        }
        let route = Route::find(parts.uri.path()).ok_or(Ending::Status(12, "unknown method"))?;
        let deadline = match timeout(&parts.headers)? {
            None => None,
            Some(Duration::ZERO) => return Err(Ending::Status(4, "the deadline had passed on arrival")),
            // What no clock can hold is no deadline.
            Some(timeout) => arrived.checked_add(timeout),
        };
        Ok(Self {
            route,
            deadline,
            encoding: encoding(&parts.headers)?,
        })
    }
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Ending> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    parse_timeout(value.as_bytes()).map(Some).ok_or(Ending::Status(
        13,
        "grpc-timeout is malformed; expected digits and one of H, M, S, m, u, n",
    ))
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    // Ten digits are more than the protocol allows, and what other servers take.
    if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Ending> {
    match headers.get("grpc-encoding").map(http::HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(Encoding::Identity),
        Some(b"gzip") => Ok(Encoding::Gzip),
        Some(b"deflate") => Ok(Encoding::Deflate),
        Some(_) => Err(Ending::Status(
            13,
            "grpc-encoding is not one of identity, deflate, gzip",
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timeouts_have_digits_and_a_unit() {
        assert_eq!(parse_timeout(b"2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_timeout(b"3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse_timeout(b"5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            parse_timeout(b"99999999u"),
            Some(Duration::from_micros(99_999_999))
        );
        assert_eq!(parse_timeout(b"1n"), Some(Duration::from_nanos(1)));
        for malformed in [
            "",
            "S",
            "5",
            "5x",
            "-5S",
            "+5S",
            " 5S",
            "5 S",
            "5.0S",
            "12345678901S",
        ] {
            assert_eq!(parse_timeout(malformed.as_bytes()), None, "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn no_timeout_panics(value in prop::collection::vec(any::<u8>(), 0..16)) {
            if let Some(timeout) = parse_timeout(&value) {
                let _ = Instant::now().checked_add(timeout);
            }
        }

        #[test]
        fn every_timeout_is_read_as_it_was_written(number in 0u64..100_000_000) {
            prop_assert_eq!(parse_timeout(format!("{number}u").as_bytes()), Some(Duration::from_micros(number)));
        }
    }
}
