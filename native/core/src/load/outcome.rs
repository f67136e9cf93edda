//! How a request ended, and how that is called in reports.

use std::fmt;

use http::HeaderMap;

use crate::texts::CODES;

/// What a server says is cut here: it becomes a key of a report.
const MAX_TEXT_BYTES: usize = 80;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered.
    Answered,
    /// The server refused it: status, and reason where it gives one.
    Refused(u32, String),
    /// The server refused it on a stream, with a text alone.
    RefusedInStream(String),
    /// There was no answer when its deadline had passed, nor a word from the server.
    NoAnswer,
    /// The connection or the stream failed under it.
    Broken(String),
    /// The run was ended while it was unanswered.
    Abandoned,
}

impl Outcome {
    /// Whether it is the transport or a silent server that failed, not a server that said so.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::NoAnswer | Self::Broken(_))
    }

    /// What the trailers of a call, or its head where that is all there is, say.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        if code == 0 {
            return Some(Self::Answered);
        }
        let reason = headers
            .get("tickserve-reason")
            .and_then(|reason| reason.to_str().ok());
        Some(Self::refused(code, reason.unwrap_or_default()))
    }

    pub(super) fn refused(code: u32, reason: &str) -> Self {
        Self::Refused(code, shortened(reason))
    }

    pub(super) fn refused_in_stream(text: &str) -> Self {
        Self::RefusedInStream(shortened(text))
    }

    pub(super) fn broken(error: &h2::Error) -> Self {
        let what = if let Some(error) = error.get_io() {
            format!("connection lost: {}", error.kind())
        } else if error.is_go_away() {
            format!("connection ended by GOAWAY: {}", reason(error))
        } else if error.is_reset() {
            format!("stream reset: {}", reason(error))
        } else {
            error.to_string()
        };
        Self::Broken(shortened(&what))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered => text.write_str("OK"),
            Self::Refused(code, reason) => {
                match CODES.get(*code as usize) {
                    Some(name) => text.write_str(name)?,
                    None => write!(text, "status {code}")?,
                }
                if !reason.is_empty() {
                    write!(text, " {reason}")?;
                }
                Ok(())
            }
            Self::RefusedInStream(said) => write!(text, "refused on the stream: {said}"),
            Self::NoAnswer => text.write_str("no answer within the deadline"),
            Self::Broken(what) => text.write_str(what),
            Self::Abandoned => text.write_str("unanswered when the run was ended"),
        }
    }
}

fn reason(error: &h2::Error) -> String {
    error
        .reason()
        .map_or_else(|| "no reason".to_owned(), |reason| format!("{reason:?}"))
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end]
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect()
}
