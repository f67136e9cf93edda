//! One connection, driven by the threads that wait on it.
//!
//! Invariants: at most one thread leads, which alone waits for the socket; every other waiting thread is parked, and is
//! woken when its answer is there or when it is to lead. Whoever puts something in line writes it itself. Only under
//! the lock of `driver` is anything read or written, and never is that lock held by a thread that waits.

use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::Request;

use super::watch::Facts;
use super::wire::{Plug, Watched};

/// How long a thread waits at most before it asks whether it should go on.
const SLICE: Duration = Duration::from_millis(100);

/// Whoever waited was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// Says whether a waiting thread is to stop. Asked every 100 ms, and when a signal came.
pub type Check<'a> = &'a mut dyn FnMut() -> Result<(), Interrupted>;

/// Why a wait ended without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Late,
    Interrupted,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    plug: Arc<Plug>,
    facts: Arc<Facts>,
    driver: Mutex<Option<Connection<Watched, Bytes>>>,
    requests: Mutex<SendRequest<Bytes>>,
    /// Set where h2 has something to do.
    dirty: Arc<Dirty>,
    waker: Waker,
    bell: Arc<Bell>,
    lead: Mutex<Lead>,
    is_over: AtomicBool,
    is_closed: AtomicBool,
    is_retired: AtomicBool,
}

#[derive(Debug, Default)]
struct Lead {
    is_led: bool,
    waiting: VecDeque<Arc<Waiter>>,
}

impl Link {
    pub(super) fn new(
        plug: Arc<Plug>,
        facts: Arc<Facts>,
        requests: SendRequest<Bytes>,
        connection: Connection<Watched, Bytes>,
    ) -> std::io::Result<Arc<Self>> {
        let dirty = Arc::new(Dirty(AtomicBool::new(true)));
        Ok(Arc::new(Self {
            plug,
            facts,
            driver: Mutex::new(Some(connection)),
            requests: Mutex::new(requests),
            waker: Waker::from(Arc::clone(&dirty)),
            dirty,
            bell: Arc::new(Bell::new()?),
            lead: Mutex::default(),
            is_over: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
        }))
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The socket, to be waited for by an event loop.
    pub fn fd(&self) -> RawFd {
        self.plug.fd()
    }

    /// Whether the socket did not take all there was to write.
    pub fn wants_write(&self) -> bool {
        self.plug.wants_write()
    }

    /// Whether new calls may begin here.
    pub fn is_usable(&self) -> bool {
        !self.is_over() && !self.facts.is_going_away() && !self.is_retired.load(Ordering::Acquire)
    }

    /// Whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Whether it was ended by its own side.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Begins no more calls here.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    /// Ends the connection and all that is under way on it.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        let mut driver = lock(&self.driver);
        self.end(&mut driver);
    }

    /// Puts the headers of a call in line.
    pub(super) fn begin(
        &self,
        request: Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut requests = lock(&self.requests).clone();
        match requests.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ready) => ready?,
            // A clone has nothing before it.
            Poll::Pending => {}
        }
        requests.send_request(request, false)
    }

    /// Sends what is in line. Where nobody reads, looks first whether the server has gone, so that nothing is sent to one
    /// that has said so.
    pub fn send_first(&self) {
        let is_lone = !lock(&self.lead).is_led;
        if is_lone {
            self.plug.note_readable();
        }
        self.drive(is_lone);
    }

    /// Sends what is in line, if anything is. Reads nothing: what would come of it, nobody would look for.
    pub fn flush(&self) {
        if self.dirty.0.load(Ordering::Acquire) {
            self.drive(false);
        }
    }

    /// Reads what has come and sends what is in line; for the event loop that saw the socket ready.
    pub fn turn(&self) {
        self.plug.note_readable();
        self.drive(true);
    }

    /// Waits until `poll` is ready, and drives the connection meanwhile where no other thread does.
    pub(super) fn wait<T>(
        &self,
        end: Option<Instant>,
        check: Check<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Ended> {
        let waiter = Arc::new(Waiter::new(Arc::clone(&self.bell)));
        let waker = Waker::from(Arc::clone(&waiter));
        let mut cx = Context::from_waker(&waker);
        let mut place = Place {
            link: self,
            waiter: &waiter,
            leads: false,
            is_queued: false,
        };
        let mut checked = None;
        loop {
            waiter.is_notified.store(false, Ordering::SeqCst);
            if let Poll::Ready(value) = poll(&mut cx) {
                // Windows may have opened.
                self.flush();
                return Ok(value);
            }
            self.flush();
            let now = Instant::now();
            let left = end.map(|end| end.saturating_duration_since(now));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Ended::Late);
            }
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            let was_signalled = if place.lead() {
                self.watch(&waiter, slice)
            } else {
                if !waiter.is_notified.load(Ordering::SeqCst) {
                    thread::park_timeout(slice);
                }
                false
            };
            let since = *checked.get_or_insert(now);
            if was_signalled || now.duration_since(since) >= SLICE {
                checked = Some(now);
                check().map_err(|_| Ended::Interrupted)?;
            }
        }
    }

    /// Waits for the socket as the leader, and drives. True where a signal came.
    fn watch(&self, waiter: &Waiter, slice: Duration) -> bool {
        waiter.is_watching.store(true, Ordering::SeqCst);
        let seen = if waiter.is_notified.load(Ordering::SeqCst) {
            Seen::default()
        } else {
            wait_for(self.fd(), self.wants_write(), Some(&self.bell), slice)
        };
        waiter.is_watching.store(false, Ordering::SeqCst);
        if seen.is_rung {
            self.bell.silence();
        }
        if seen.is_readable {
            self.plug.note_readable();
        }
        if seen.is_readable || seen.is_writable {
            self.drive(true);
        }
        seen.is_signalled
    }

    fn drive(&self, reads: bool) {
        let mut driver = lock(&self.driver);
        self.plug.begin_turn(reads);
        let mut cx = Context::from_waker(&self.waker);
        while let Some(connection) = driver.as_mut() {
            self.dirty.0.store(false, Ordering::Release);
            match Pin::new(connection).poll(&mut cx) {
                Poll::Ready(_) => self.end(&mut driver),
                Poll::Pending if self.dirty.0.load(Ordering::Acquire) => {}
                Poll::Pending => break,
            }
        }
        drop(driver);
        if self.wants_write() {
            // The leader may be waiting for reads alone.
            self.bell.ring();
        }
    }

    fn end(&self, driver: &mut MutexGuard<'_, Option<Connection<Watched, Bytes>>>) {
        self.is_over.store(true, Ordering::Release);
        // h2 fails what is under way, and wakes who waits for it. No answer: it may be closed already.
        let _ = self.plug.socket.shutdown(std::net::Shutdown::Both);
        **driver = None;
        self.dirty.0.store(false, Ordering::Release);
        self.bell.ring();
    }
}

/// The place of one thread among those that wait.
struct Place<'a> {
    link: &'a Link,
    waiter: &'a Arc<Waiter>,
    leads: bool,
    is_queued: bool,
}

impl Place<'_> {
    /// Whether this thread leads, now if not before.
    fn lead(&mut self) -> bool {
        if self.leads {
            return true;
        }
        let mut lead = lock(&self.link.lead);
        if lead.is_led {
            if !self.is_queued {
                lead.waiting.push_back(Arc::clone(self.waiter));
                self.is_queued = true;
            }
            return false;
        }
        lead.is_led = true;
        self.leads = true;
        self.leave(&mut lead);
        true
    }

    fn leave(&mut self, lead: &mut Lead) {
        if std::mem::take(&mut self.is_queued) {
            lead.waiting.retain(|other| !Arc::ptr_eq(other, self.waiter));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.leads && !self.is_queued {
            return;
        }
        let mut lead = lock(&self.link.lead);
        self.leave(&mut lead);
        if self.leads {
            lead.is_led = false;
        }
        // Also where this one did not lead: it may have been told to, just when its answer came.
        if let (false, Some(next)) = (lead.is_led, lead.waiting.front()) {
            next.notify();
        }
    }
}

/// A thread that waits.
#[derive(Debug)]
struct Waiter {
    is_notified: AtomicBool,
    /// Waits for the socket and the bell, not parked.
    is_watching: AtomicBool,
    thread: Thread,
    bell: Arc<Bell>,
}

impl Waiter {
    fn new(bell: Arc<Bell>) -> Self {
        Self {
            is_notified: AtomicBool::new(false),
            is_watching: AtomicBool::new(false),
            thread: thread::current(),
            bell,
        }
    }

    fn notify(&self) {
        if self.is_notified.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.is_watching.load(Ordering::SeqCst) {
            self.bell.ring();
        } else {
            self.thread.unpark();
        }
    }
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

#[derive(Debug)]
struct Dirty(AtomicBool);

impl Wake for Dirty {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Wakes the thread that waits for the socket.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    fn new() -> std::io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read from an array of eight. A full counter has rung already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn silence(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight bytes are written into an array of eight. What is empty is silent.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    pub(super) is_rung: bool,
    pub(super) is_signalled: bool,
}

/// Waits until the socket or the bell has something, or the time is over.
pub(super) fn wait_for(fd: RawFd, writes: bool, bell: Option<&Bell>, time: Duration) -> Seen {
    let asked = libc::POLLIN | if writes { libc::POLLOUT } else { 0 };
    let pollfd = |fd, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // A negative descriptor is passed over.
    let mut fds = [
        pollfd(fd, asked),
        pollfd(bell.map_or(-1, |bell| bell.0.as_raw_fd()), libc::POLLIN),
    ];
    let count = if bell.is_some() { 2 } else { 1 };
    let time = libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: `fds` and `time` outlive the call, and `count` is within `fds`; no signal mask is given.
    let found = unsafe { libc::ppoll(fds.as_mut_ptr(), count, &raw const time, std::ptr::null()) };
    if found < 0 {
        return Seen {
            is_signalled: true,
            ..Seen::default()
        };
    }
    let broken = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
    Seen {
        is_readable: fds[0].revents & (libc::POLLIN | broken) != 0,
        is_writable: fds[0].revents & libc::POLLOUT != 0,
        is_rung: fds[1].revents != 0,
        is_signalled: false,
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
