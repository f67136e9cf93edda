//! The connection that a client keeps, and replaces when it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method as HttpMethod, Request, Uri};
use rustls::pki_types::ServerName;

use super::call::Call;
use super::dial::{DialError, Secure, Target, dial};
use super::link::{Check, Interrupted, Link, lock};
use super::status::{Outcome, Status, code};
use super::timeout;
use super::tls::TlsConfig;

const USER_AGENT: &str = concat!("tickserve-native/", env!("CARGO_PKG_VERSION"));
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const SLICE: Duration = Duration::from_millis(100);
/// Longest attempt to connect.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long calls fail at once after an attempt to connect has failed: doubling from one to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Calls one server, over one connection at a time. Any number of threads may use it at once.
#[derive(Debug)]
pub struct Client {
    target: Target,
    secure: Option<Secure>,
    authority: String,
    max_message_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    /// Nobody has a connection; what came of the last attempt, where it failed.
    Idle(Option<Failure>),
    /// A thread connects, and calls wait for it.
    Dialing,
    Held(Arc<Link>),
    Closed,
}

#[derive(Debug)]
struct Failure {
    message: String,
    until: Instant,
    pause: Duration,
}

/// A method of the server's, as its calls name it.
#[derive(Clone, Debug)]
pub struct Method(Uri);

impl Client {
    /// Of the server at `target`; connected to at the first call. `server_name` is what its certificate must bear where
    /// that is not the target's host.
    pub fn new(
        target: Target,
        tls: Option<TlsConfig>,
        server_name: Option<&str>,
        max_message_bytes: usize,
    ) -> Result<Self, String> {
        let (host, authority) = match &target {
            Target::Unix(_) => ("localhost".to_owned(), "localhost".to_owned()),
            Target::Tcp(host, port) if host.contains(':') => (host.clone(), format!("[{host}]:{port}")),
            Target::Tcp(host, port) => (host.clone(), format!("{host}:{port}")),
        };
        let authority = server_name.map_or(authority, str::to_owned);
        let name = server_name.map_or(host, str::to_owned);
        let secure = tls
            .map(|config| match ServerName::try_from(name.clone()) {
                Ok(name) => Ok((config, name)),
                Err(error) => Err(format!("{name:?} is no name of a server: {error}")),
            })
            .transpose()?;
        let client = Self {
            target,
            secure,
            authority,
            max_message_bytes,
            state: Mutex::new(State::Idle(None)),
            changed: Condvar::new(),
        };
        client.method("/")?;
        Ok(client)
    }

    /// The method at `/package.Service/Method`.
    pub fn method(&self, path: &str) -> Result<Method, String> {
        let scheme = if self.secure.is_some() { "https" } else { "http" };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()
            .map(Method)
            .map_err(|error| format!("{}{path} cannot be called: {error}", self.authority))
    }

    /// One unary call; `frame` is its message as `framed` makes it.
    ///
    /// A call is sent a second time only where the first certainly has not left: the connection had ended unnoticed.
    pub fn call(
        self: &Arc<Self>,
        method: &Method,
        frame: &Bytes,
        end: Instant,
        check: Check<'_>,
    ) -> Result<Outcome, Interrupted> {
        let mut is_second = false;
        loop {
            let link = match self.link(Some(end), check)? {
                Ok(link) => link,
                Err(failed) => return Ok(Err(failed)),
            };
            let outcome = match self.begin(&link, method, Some(frame.clone()), Some(end)) {
                Err(failed) => Err(failed),
                Ok(call) => {
                    link.send_first();
                    call.wait_for_answer(end, check)?
                }
            };
            match outcome {
                Err(failed) if !failed.request_sent && !is_second && !link.is_usable() => is_second = true,
                outcome => return Ok(outcome),
            }
        }
    }

    /// Begins a stream, which has no deadline; waits for a connection as long as it takes.
    pub fn stream(
        self: &Arc<Self>,
        method: &Method,
        check: Check<'_>,
    ) -> Result<Result<Call, Status>, Interrupted> {
        let mut is_second = false;
        loop {
            let link = match self.link(None, check)? {
                Ok(link) => link,
                Err(failed) => return Ok(Err(failed)),
            };
            let begun = self.begin(&link, method, None, None);
            if begun.is_ok() {
                link.send_first();
            }
            if link.is_usable() || is_second {
                return Ok(begun);
            }
            is_second = true;
        }
    }

    /// Puts a call in line on this connection: one with its only message, or a stream.
    pub fn begin(
        &self,
        link: &Arc<Link>,
        method: &Method,
        message: Option<Bytes>,
        end: Option<Instant>,
    ) -> Result<Call, Status> {
        let request = self.request(method, end);
        Call::begin(link, request, message, self.max_message_bytes).map_err(|error| {
            link.retire();
            Status::broken(&error, false)
        })
    }

    fn request(&self, method: &Method, end: Option<Instant>) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = HttpMethod::POST;
        *request.uri_mut() = method.0.clone();
        let headers = request.headers_mut();
        headers.reserve(4);
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
        headers.insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(end) = end {
            let left = timeout::encode(end.saturating_duration_since(Instant::now()));
            if let Ok(value) = HeaderValue::try_from(left) {
                headers.insert(GRPC_TIMEOUT, value);
            }
        }
        request
    }

    /// The connection to use, once there is one.
    pub fn link(
        self: &Arc<Self>,
        end: Option<Instant>,
        check: Check<'_>,
    ) -> Result<Result<Arc<Link>, Status>, Interrupted> {
        let mut state = lock(&self.state);
        let began = Instant::now();
        let mut is_waiting = false;
        loop {
            match &*state {
                State::Held(link) if link.is_usable() => return Ok(Ok(Arc::clone(link))),
                State::Closed => {
                    return Ok(Err(Status::unsent(
                        code::CANCELLED,
                        "the client is closed; make a new one",
                    )));
                }
                // The attempt that this call has waited for counts, however long the pause after it.
                State::Idle(Some(failure)) if is_waiting || failure.until > began => {
                    return Ok(Err(Status::unsent(code::UNAVAILABLE, failure.message.clone())));
                }
                State::Dialing => {}
                State::Idle(failure) => {
                    let pause = failure.as_ref().map_or(Duration::ZERO, |failure| failure.pause);
                    if let Err(error) = self.begin_dialing(pause) {
                        return Ok(Err(Status::unsent(
                            code::UNAVAILABLE,
                            format!("no thread to connect: {error}"),
                        )));
                    }
                    *state = State::Dialing;
                }
                State::Held(_) => {
                    if let Err(error) = self.begin_dialing(Duration::ZERO) {
                        return Ok(Err(Status::unsent(
                            code::UNAVAILABLE,
                            format!("no thread to connect: {error}"),
                        )));
                    }
                    *state = State::Dialing;
                }
            }
            is_waiting = true;
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Err(Status::unsent(code::DEADLINE_EXCEEDED, "Deadline Exceeded")));
            }
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            let (woken, waited) = self
                .changed
                .wait_timeout(state, slice)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if waited.timed_out() {
                // It may take the interpreter's lock, which must not be waited for with this one held.
                drop(state);
                check()?;
                state = lock(&self.state);
            }
        }
    }

    /// Connects on a thread of its own, so that the attempt outlives calls with short deadlines.
    fn begin_dialing(self: &Arc<Self>, pause: Duration) -> std::io::Result<()> {
        let client = Arc::clone(self);
        std::thread::Builder::new()
            .name("tickserve-dial".to_owned())
            .spawn(move || {
                let mut unless_closed = || match *lock(&client.state) {
                    State::Closed => Err(Interrupted),
                    _ => Ok(()),
                };
                let end = Instant::now() + DIAL_TIMEOUT;
                let dialed = catch_unwind(AssertUnwindSafe(|| {
                    dial(&client.target, client.secure.as_ref(), end, &mut unless_closed)
                }));
                let dialed = dialed
                    .unwrap_or_else(|_| Err(DialError::Failed("the attempt to connect panicked".to_owned())));
                client.take(dialed, pause);
            })
            .map(drop)
    }

    fn take(&self, dialed: Result<Arc<Link>, DialError>, pause: Duration) {
        let mut state = lock(&self.state);
        match (&*state, dialed) {
            (State::Closed, Ok(link)) => link.close(),
            (State::Closed, Err(_)) => {}
            (_, Ok(link)) => *state = State::Held(link),
            (_, Err(error)) => {
                let pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                *state = State::Idle(Some(Failure {
                    message: format!("failed to connect: {error}"),
                    until: Instant::now() + pause,
                    pause,
                }));
            }
        }
        self.changed.notify_all();
    }

    /// Ends what is under way, and refuses what comes.
    pub fn close(&self) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Closed);
        self.changed.notify_all();
        if let State::Held(link) = before {
            link.close();
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        matches!(*lock(&self.state), State::Closed)
    }
}
