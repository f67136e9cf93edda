//! A socket that never waits, as h2 and TLS read and write it. Who drives the connection waits for it, with `poll`.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::watch::{Facts, Watch};

/// The socket, and whether it is worth asking.
#[derive(Debug)]
pub(super) struct Plug {
    pub(super) socket: Socket,
    /// Set by whoever saw the socket readable, cleared by reading all there is.
    may_read: AtomicBool,
    /// Something is left that the socket did not take.
    wants_write: AtomicBool,
    /// What may be read before whoever drives looks at its own call again.
    budget: AtomicUsize,
}

/// A server that never pauses must not keep a caller beyond its deadline.
const TURN_BYTES: usize = 1 << 20;

impl Plug {
    pub(super) fn new(socket: Socket) -> Arc<Self> {
        Arc::new(Self {
            socket,
            may_read: AtomicBool::new(false),
            wants_write: AtomicBool::new(false),
            budget: AtomicUsize::new(TURN_BYTES),
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Allows another turn of reading, or none.
    pub(super) fn begin_turn(&self, reads: bool) {
        self.budget
            .store(if reads { TURN_BYTES } else { 0 }, Ordering::Release);
    }

    pub(super) fn note_readable(&self) {
        self.may_read.store(true, Ordering::Release);
    }

    pub(super) fn wants_write(&self) -> bool {
        self.wants_write.load(Ordering::Acquire)
    }
}

/// Reads and writes a `Plug`. What would wait is pending and wakes nobody.
#[derive(Debug)]
pub(super) struct Wire(pub(super) Arc<Plug>);

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let plug = &self.0;
        let budget = plug.budget.load(Ordering::Acquire);
        if budget == 0 || !plug.may_read.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let room = buffer.remaining();
        loop {
            // SAFETY: `recv` writes only initialised bytes into the slice and reads none of it.
            let unfilled: &mut [MaybeUninit<u8>] = unsafe { buffer.unfilled_mut() };
            match plug.socket.recv(unfilled) {
                Ok(count) => {
                    // SAFETY: the kernel has just written the first `count` bytes of the unfilled part.
                    unsafe { buffer.assume_init(count) };
                    buffer.advance(count);
                    plug.budget.store(budget.saturating_sub(count), Ordering::Release);
                    // What was not filled was drained. An end stays readable.
                    if count > 0 && count < room {
                        plug.may_read.store(false, Ordering::Release);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    plug.may_read.store(false, Ordering::Release);
                    return Poll::Pending;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let plug = &self.0;
        loop {
            // The process may not ignore SIGPIPE.
            match plug.socket.send_vectored_with_flags(slices, libc::MSG_NOSIGNAL) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    plug.wants_write.store(true, Ordering::Release);
                    return Poll::Pending;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    plug.wants_write.store(false, Ordering::Release);
                    return Poll::Ready(done);
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.socket.shutdown(std::net::Shutdown::Write))
    }
}

/// Bytes of HTTP/2, plain or not.
#[derive(Debug)]
pub(super) enum Io {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

/// `Io`, watched.
#[derive(Debug)]
pub(super) struct Watched {
    io: Io,
    watch: Watch,
    facts: Arc<Facts>,
}

impl Watched {
    pub(super) fn new(io: Io, facts: Arc<Facts>) -> Self {
        Self {
            io,
            watch: Watch::new(),
            facts,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(match &mut this.io {
            Io::Plain(wire) => Pin::new(wire).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        })?;
        this.watch.note_received(&buffer.filled()[before..], &this.facts);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(match &mut this.io {
            Io::Plain(wire) => Pin::new(wire).poll_write_vectored(cx, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        })?;
        let mut left = count;
        for slice in slices {
            let sent = left.min(slice.len());
            this.watch.note_sent(&slice[..sent], &this.facts);
            left -= sent;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(wire) => wire.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(wire) => Pin::new(wire).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
