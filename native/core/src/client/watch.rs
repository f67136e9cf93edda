//! What is known of a connection from the frames that pass: which calls have begun to leave, and which the server
//! says that it will not look at. h2 keeps both to itself.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// What passed, for all threads to read.
#[derive(Debug)]
pub(super) struct Facts {
    born: Instant,
    /// The highest stream of which a HEADERS frame has begun to leave; they leave in rising order.
    sent: AtomicU32,
    /// The last stream that the server will look at, once it has said so.
    last: AtomicU32,
    has_settings: AtomicBool,
    /// When bytes last came, in milliseconds since `born`.
    received_ms: AtomicU64,
}

impl Facts {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            sent: AtomicU32::new(0),
            last: AtomicU32::new(u32::MAX),
            has_settings: AtomicBool::new(false),
            received_ms: AtomicU64::new(0),
        }
    }

    /// Whether the server has spoken HTTP/2.
    pub(super) fn has_settings(&self) -> bool {
        self.has_settings.load(Ordering::Acquire)
    }

    /// Whether the server takes no more calls on this connection.
    pub(super) fn is_going_away(&self) -> bool {
        self.last.load(Ordering::Acquire) != u32::MAX
    }

    /// Whether the server may have looked at this stream, as far as what has left by now tells.
    pub(super) fn may_have_been_seen(&self, stream: u32) -> bool {
        stream <= self.sent.load(Ordering::Acquire) && stream <= self.last.load(Ordering::Acquire)
    }

    /// Whether nothing has come since `since`.
    pub(super) fn is_silent_since(&self, since: Instant) -> bool {
        let since = since.saturating_duration_since(self.born).as_millis();
        u128::from(self.received_ms.load(Ordering::Relaxed)) < since
    }

    fn note_received(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.received_ms.store(now, Ordering::Relaxed);
    }
}

/// Finds the frames of one direction in its bytes, whatever pieces these come in.
#[derive(Debug)]
struct Frames {
    /// Bytes to pass over before the next frame's head.
    skip: usize,
    head: [u8; HEAD_BYTES],
    filled: usize,
}

impl Frames {
    fn new(skip: usize) -> Self {
        Self {
            skip,
            head: [0; HEAD_BYTES],
            filled: 0,
        }
    }

    /// Hands over each frame as soon as its head is whole, and what passes of the payload of GOAWAY.
    fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(Passed<'_>)) {
        loop {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                if self.filled == HEAD_BYTES && self.head[3] == GOAWAY {
                    found(Passed::GoAway(&bytes[..passed]));
                }
                self.skip -= passed;
                bytes = &bytes[passed..];
            }
            if self.skip > 0 || bytes.is_empty() {
                return;
            }
            if self.filled == HEAD_BYTES {
                self.filled = 0;
            }
            let taken = (HEAD_BYTES - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD_BYTES {
                let head = self.head;
                self.skip = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
                found(Passed::Head(head[3], stream));
            }
        }
    }

    /// Whether a head has begun to pass that is not whole.
    fn is_inside_head(&self) -> bool {
        self.filled > 0 && self.filled < HEAD_BYTES
    }
}

enum Passed<'a> {
    /// A frame's kind and stream.
    Head(u8, u32),
    /// A part of the payload of a GOAWAY.
    GoAway(&'a [u8]),
}

/// The watchers of both directions of one connection.
#[derive(Debug)]
pub(super) struct Watch {
    sent: Frames,
    came: Frames,
    /// The beginning of the payload of the last GOAWAY.
    goaway: Vec<u8>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            sent: Frames::new(PREFACE_BYTES),
            came: Frames::new(0),
            goaway: Vec::new(),
        }
    }

    /// Notes bytes that have left.
    pub(super) fn note_sent(&mut self, bytes: &[u8], facts: &Facts) {
        self.sent.pass(bytes, |passed| {
            if let Passed::Head(HEADERS, stream) = passed {
                facts.sent.store(stream, Ordering::Release);
            }
        });
        if self.sent.is_inside_head() {
            // Which frame it will be is not known: the next call has begun to leave, for all one knows.
            let next = facts.sent.load(Ordering::Acquire).saturating_add(2);
            facts.sent.store(next, Ordering::Release);
        }
    }

    /// Notes bytes that came.
    pub(super) fn note_received(&mut self, bytes: &[u8], facts: &Facts) {
        facts.note_received();
        let goaway = &mut self.goaway;
        self.came.pass(bytes, |passed| match passed {
            Passed::Head(SETTINGS, _) => facts.has_settings.store(true, Ordering::Release),
            Passed::Head(GOAWAY, _) => goaway.clear(),
            Passed::Head(..) => {}
            Passed::GoAway(part) => {
                let missing = 4usize.saturating_sub(goaway.len());
                goaway.extend_from_slice(&part[..part.len().min(missing)]);
                if let Some(last) = goaway.first_chunk::<4>() {
                    let last = u32::from_be_bytes(*last) & (u32::MAX >> 1);
                    facts.last.fetch_min(last, Ordering::Release);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.extend([0, bytes.len()]);
        ends.sort_unstable();
        ends.windows(2)
            .map(|pair| bytes[pair[0]..pair[1]].to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_the_same_is_found(cuts in prop::collection::vec(any::<usize>(), 0..12)) {
            let facts = Facts::new();
            let mut watch = Watch::new();
            let sent = [vec![b'x'; PREFACE_BYTES], frame(SETTINGS, 0, &[0; 6]), frame(HEADERS, 5, b"head"), frame(0, 5, &[7; 40])].concat();
            for piece in pieces(&sent, &cuts) {
                watch.note_sent(&piece, &facts);
            }
            let came = [frame(SETTINGS, 0, &[]), frame(GOAWAY, 0, &[0, 0, 0, 3, 0, 0, 0, 0, b'w', b'h', b'y', b'!']), frame(1, 1, &[1; 9])].concat();
            prop_assert!(!facts.has_settings() && !facts.is_going_away());
            for piece in pieces(&came, &cuts) {
                watch.note_received(&piece, &facts);
            }
            prop_assert!(facts.has_settings() && facts.is_going_away());
            prop_assert!(facts.may_have_been_seen(3));
            prop_assert!(!facts.may_have_been_seen(5));
        }
    }

    #[test]
    fn a_call_has_left_with_the_first_byte_of_its_head() {
        let facts = Facts::new();
        let mut watch = Watch::new();
        watch.note_sent(&[b'x'; PREFACE_BYTES], &facts);
        assert!(!facts.may_have_been_seen(1));
        watch.note_sent(&frame(HEADERS, 1, b"head")[..1], &facts);
        assert!(facts.may_have_been_seen(1));
    }

    #[test]
    fn a_later_goaway_may_name_an_earlier_stream() {
        let facts = Facts::new();
        let mut watch = Watch::new();
        watch.note_sent(
            &[vec![b'x'; PREFACE_BYTES], frame(HEADERS, 7, b"h")].concat(),
            &facts,
        );
        watch.note_received(&frame(GOAWAY, 0, &[0x7f, 255, 255, 255, 0, 0, 0, 0]), &facts);
        assert!(facts.may_have_been_seen(7));
        watch.note_received(&frame(GOAWAY, 0, &[0, 0, 0, 5, 0, 0, 0, 0]), &facts);
        assert!(!facts.may_have_been_seen(7));
    }
}
