//! Frames of a connection as they are read: what h2 answers by itself and shows to nobody is judged here.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Authorities;
use super::frames::{FLAG_ACK, Frames, LAST_KIND, PING, PRIORITY, Piece, SETTINGS};
use super::socket::Io;
use super::turn::Turn;

/// Pings that come too soon and are borne; gRPC's number.
const PING_STRIKES: u32 = 2;
/// SETTINGS, PRIORITY and unknown frames at once, and a second from then on. A client needs a handful.
const IDLE_FRAMES: f64 = 256.0;
const IDLE_FRAMES_PER_S: f64 = 32.0;
/// What one connection is read in one turn of its worker, so that a flood of frames costs others little.
const TURN_BYTES: usize = 64 << 10;

/// What is known of a connection from the frames it sent.
#[derive(Debug)]
pub(super) struct Meter {
    client_ping_interval: Duration,
    judge: RefCell<Judge>,
    last_frame: Cell<Instant>,
    has_settings: Cell<bool>,
    is_flooded: Cell<bool>,
    has_sent: Cell<bool>,
}

#[derive(Debug)]
struct Judge {
    frames: Frames,
    last_ping: Option<Instant>,
    ping_strikes: u32,
    idle_frames: f64,
    idle_since: Instant,
}

impl Meter {
    pub(super) fn new(client_ping_interval: Duration, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            client_ping_interval,
            judge: RefCell::new(Judge {
                frames: Frames::default(),
                last_ping: None,
                ping_strikes: 0,
                idle_frames: IDLE_FRAMES,
                idle_since: now,
            }),
            last_frame: Cell::new(now),
            has_settings: Cell::new(false),
            is_flooded: Cell::new(false),
            has_sent: Cell::new(false),
        })
    }

    /// When the last whole frame was read. Bytes of a frame that never ends are no sign of life.
    pub(super) fn last_frame(&self) -> Instant {
        self.last_frame.get()
    }

    /// Whether the client's first SETTINGS came, which completes the handshake.
    pub(super) fn has_settings(&self) -> bool {
        self.has_settings.get()
    }

    /// Whether the client sends frames that serve nothing faster than is borne.
    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded.get()
    }

    /// Headers or data went out: a client may ping upon these.
    pub(super) fn note_sent(&self) {
        self.has_sent.set(true);
    }

    fn note_read(&self, mut bytes: &mut [u8], authorities: Option<&mut Authorities>, now: Instant) {
        let mut judge = self.judge.borrow_mut();
        let mut authorities = authorities;
        while let Some(mut piece) = judge.frames.next(&mut bytes) {
            if let Piece::Head { kind, flags, .. } = piece {
                self.judge(&mut judge, kind, flags, now);
            }
            if let Some(authorities) = &mut authorities {
                authorities.respell(&mut piece);
            }
            if judge.frames.is_between() {
                self.last_frame.set(now);
            }
        }
    }

    fn judge(&self, judge: &mut Judge, kind: u8, flags: u8, now: Instant) {
        let is_borne = match kind {
            PING if flags & FLAG_ACK == 0 => {
                if self.has_sent.take() {
                    judge.ping_strikes = 0;
                    judge.last_ping = None;
                }
                judge.bears_ping(now, self.client_ping_interval)
            }
            SETTINGS => {
                self.has_settings.set(true);
                flags & FLAG_ACK != 0 || judge.bears_idle(now)
            }
            PRIORITY => judge.bears_idle(now),
            LAST_KIND.. if kind > LAST_KIND => judge.bears_idle(now),
            _ => true,
        };
        if !is_borne {
            self.is_flooded.set(true);
        }
    }
}

impl Judge {
    fn bears_ping(&mut self, now: Instant, interval: Duration) -> bool {
        let is_soon = self.last_ping.is_some_and(|last| now < last + interval);
        self.last_ping = Some(now);
        if is_soon {
            self.ping_strikes += 1;
        }
        self.ping_strikes <= PING_STRIKES
    }

    fn bears_idle(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.idle_since).as_secs_f64() * IDLE_FRAMES_PER_S;
        self.idle_since = now;
        self.idle_frames = (self.idle_frames + earned).min(IDLE_FRAMES) - 1.0;
        self.idle_frames >= 0.0
    }
}

/// A connection's bytes on their way to h2, metered, and no more of them in a turn than others can bear.
#[derive(Debug)]
pub(super) struct Metered {
    io: Io,
    meter: Rc<Meter>,
    /// On Unix sockets.
    authorities: Option<Authorities>,
    turn: Rc<Turn>,
    turn_number: u64,
    turn_bytes: usize,
}

impl Metered {
    pub(super) fn new(io: Io, meter: Rc<Meter>, turn: Rc<Turn>) -> Self {
        let authorities = matches!(io, Io::Unix(_)).then(Authorities::default);
        Self {
            io,
            meter,
            authorities,
            turn,
            turn_number: 0,
            turn_bytes: 0,
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.turn_number != me.turn.number() {
            me.turn_number = me.turn.number();
            me.turn_bytes = 0;
        }
        if me.turn_bytes >= TURN_BYTES {
            // Wakes this task in the next turn.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut me.io).poll_read(cx, buf);
        let read = &mut buf.filled_mut()[before..];
        if !read.is_empty() {
            me.turn_bytes += read.len();
            me.meter.note_read(read, me.authorities.as_mut(), me.turn.began());
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frames::{HEAD_BYTES, PREFACE_BYTES};
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        bytes.resize(HEAD_BYTES + payload, 7);
        bytes
    }

    fn read(meter: &Meter, bytes: &[u8], now: Instant) {
        meter.note_read(&mut bytes.to_vec(), None, now);
    }

    fn opened() -> (Rc<Meter>, Instant) {
        let now = Instant::now();
        let meter = Meter::new(INTERVAL, now);
        read(&meter, &[b'p'; PREFACE_BYTES], now);
        (meter, now)
    }

    #[test]
    fn the_third_early_ping_is_too_many() {
        let (meter, now) = opened();
        for _ in 0..3 {
            read(&meter, &frame(PING, 0, 8), now);
        }
        assert!(!meter.is_flooded());
        read(&meter, &frame(PING, 0, 8), now);
        assert!(meter.is_flooded());
    }

    #[test]
    fn pings_that_keep_the_interval_or_follow_an_answer_are_borne() {
        let (meter, mut now) = opened();
        for _ in 0..100 {
            read(&meter, &frame(PING, 0, 8), now);
            now += INTERVAL;
        }
        for _ in 0..100 {
            read(&meter, &frame(PING, 0, 8), now);
            meter.note_sent();
        }
        assert!(!meter.is_flooded());
    }

    #[test]
    fn answers_to_our_pings_are_no_pings() {
        let (meter, now) = opened();
        for _ in 0..100 {
            read(&meter, &frame(PING, FLAG_ACK, 8), now);
        }
        assert!(!meter.is_flooded());
    }

    #[test]
    fn settings_priority_and_unknown_frames_share_a_bound() {
        for kind in [SETTINGS, PRIORITY, 0xfa] {
            let (meter, now) = opened();
            for _ in 0..256 {
                read(&meter, &frame(kind, 0, 5), now);
            }
            assert!(!meter.is_flooded());
            read(&meter, &frame(kind, 0, 5), now + Duration::from_millis(10));
            assert!(meter.is_flooded());
        }
    }

    #[test]
    fn a_frame_that_does_not_end_is_no_sign_of_life() {
        let (meter, now) = opened();
        let later = now + INTERVAL;
        let data = frame(0, 0, 100);
        read(&meter, &data[..data.len() - 1], later);
        assert_eq!(meter.last_frame(), now);
        read(&meter, &data[data.len() - 1..], later);
        assert_eq!(meter.last_frame(), later);
        assert!(!meter.has_settings());
    }

    proptest! {
        #[test]
        fn frames_are_found_however_the_bytes_are_cut(cuts in prop::collection::vec(1usize..40, 1..200)) {
            let (meter, now) = opened();
            let mut bytes: Vec<u8> = (0..4).flat_map(|size| frame(0, 0, size * 11)).collect();
            bytes.extend(frame(SETTINGS, 0, 6));
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                prop_assert!(!meter.has_settings() || rest.len() <= 6);
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                read(&meter, piece, now);
                rest = left;
            }
            prop_assert!(meter.has_settings());
        }
    }
}
