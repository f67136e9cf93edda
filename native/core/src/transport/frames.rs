//! Frames of HTTP/2 in bytes as they are read (RFC 9113, section 4.1), however they are cut.

pub(super) const PREFACE_BYTES: usize = 24;
pub(super) const HEAD_BYTES: usize = 9;

pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const CONTINUATION: u8 = 0x9;
/// Kinds above it are unknown.
pub(super) const LAST_KIND: u8 = CONTINUATION;

pub(super) const FLAG_ACK: u8 = 0x1;
pub(super) const FLAG_PADDED: u8 = 0x8;
pub(super) const FLAG_PRIORITY: u8 = 0x20;

/// What comes next of a connection.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// The head of a frame is whole.
    Head { kind: u8, flags: u8, length: usize },
    /// Bytes of the preface or of a payload.
    Payload { bytes: &'a mut [u8] },
}

/// Where in its frames a connection is.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface or of a payload still to come.
    rest: usize,
    head: [u8; HEAD_BYTES],
    head_filled: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            rest: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            head_filled: 0,
        }
    }
}

impl Frames {
    /// Takes a piece off what was read; None where the rest of it, if any, is part of a head.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a mut [u8]) -> Option<Piece<'a>> {
        if bytes.is_empty() {
            return None;
        }
        if self.rest > 0 {
            let bytes = split_off(bytes, self.rest);
            self.rest -= bytes.len();
            return Some(Piece::Payload { bytes });
        }
        let part = split_off(bytes, HEAD_BYTES - self.head_filled);
        let filled = self.head_filled + part.len();
        self.head[self.head_filled..filled].copy_from_slice(part);
        self.head_filled = filled % HEAD_BYTES;
        if filled < HEAD_BYTES {
            return None;
        }
        let [high, middle, low, kind, flags, ..] = self.head;
        self.rest = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        Some(Piece::Head {
            kind,
            flags,
            length: self.rest,
        })
    }

    /// Whether a frame has just ended.
    pub(super) fn is_between(&self) -> bool {
        self.rest == 0 && self.head_filled == 0
    }
}

/// Takes up to `count` bytes off the front.
fn split_off<'a>(bytes: &mut &'a mut [u8], count: usize) -> &'a mut [u8] {
    let whole = std::mem::take(bytes);
    let (front, rest) = whole.split_at_mut(count.min(whole.len()));
    *bytes = rest;
    front
}
