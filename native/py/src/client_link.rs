//! A connection of the native client that an event loop drives: the loop says when the socket is ready, and is told
//! which of its calls have come to something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tickserve_core::client::{Call, Client, Link, OfProcess, Status};

use crate::client::{Answer, ClientMethod, Failed, answered, end_of, failed, frame_of};

/// What a call has come to: its number, and its answer or next message, None at the end of a stream.
type Event<'py> = (u64, Option<Answer<'py>>);

/// A connection for the thread of one event loop.
#[pyclass(frozen, module = "tickserve_native")]
pub struct ClientLink(OfProcess<Held>);

struct Held {
    client: Arc<Client>,
    link: Arc<Link>,
    calls: Mutex<Calls>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Calls {
    last: u64,
    under_way: HashMap<u64, UnderWay>,
}

struct UnderWay {
    call: Call,
    waker: Waker,
    is_stream: bool,
}

/// Calls that have something, in the order in which they got it.
#[derive(Default)]
struct Woken(Mutex<Vec<u64>>);

struct Number(u64, Arc<Woken>);

impl Wake for Number {
    fn wake(self: Arc<Self>) {
        lock(&self.1.0).push(self.0);
    }
}

impl ClientLink {
    pub(crate) fn new(client: Arc<Client>, link: Arc<Link>) -> Self {
        Self(OfProcess::new(Held {
            client,
            link,
            calls: Mutex::default(),
            woken: Arc::default(),
        }))
    }

    fn held(&self) -> PyResult<&Held> {
        self.0
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the connection was made before this process was forked"))
    }
}

#[pymethods]
impl ClientLink {
    /// The socket.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.held()?.link.fd())
    }

    /// Whether new calls may begin here; False in a forked child.
    #[getter]
    fn is_usable(&self) -> bool {
        self.0.get().is_some_and(|held| held.link.is_usable())
    }

    /// Whether the connection has ended.
    #[getter]
    fn is_over(&self) -> bool {
        self.0.get().is_none_or(|held| held.link.is_over())
    }

    /// Whether to call `turn` also when the socket can be written to.
    #[getter]
    fn wants_write(&self) -> bool {
        self.0.get().is_some_and(|held| held.link.wants_write())
    }

    /// Begins a unary call of `message`, and returns its number and what any calls have come to.
    fn call<'py>(
        &self,
        py: Python<'py>,
        method: &ClientMethod,
        message: &[u8],
        timeout_s: f64,
    ) -> PyResult<(u64, Vec<Event<'py>>)> {
        let held = self.held()?;
        let end = end_of(timeout_s);
        let begun = held
            .client
            .begin(&held.link, &method.0, Some(frame_of(message)?), Some(end));
        held.begin(py, begun, false)
    }

    /// Begins a stream, likewise.
    fn stream<'py>(&self, py: Python<'py>, method: &ClientMethod) -> PyResult<(u64, Vec<Event<'py>>)> {
        let held = self.held()?;
        held.begin(py, held.client.begin(&held.link, &method.0, None, None), true)
    }

    /// Reads and writes, and returns what calls have come to.
    fn turn<'py>(&self, py: Python<'py>) -> PyResult<Vec<Event<'py>>> {
        let held = self.held()?;
        held.link.turn();
        Ok(held.events(py))
    }

    /// Sends a message of a stream.
    fn send(&self, number: u64, message: &[u8]) -> PyResult<()> {
        let frame = frame_of(message)?;
        if let Some(under_way) = lock(&self.held()?.calls).under_way.get(&number) {
            under_way.call.send(frame);
        }
        Ok(())
    }

    /// Says that no more will be sent.
    fn finish(&self, number: u64) -> PyResult<()> {
        if let Some(under_way) = lock(&self.held()?.calls).under_way.get(&number) {
            under_way.call.finish();
        }
        Ok(())
    }

    /// Takes a call back whose answer nobody waits for any more.
    fn cancel(&self, number: u64) -> PyResult<()> {
        if let Some(under_way) = lock(&self.held()?.calls).under_way.remove(&number) {
            under_way.call.cancel();
        }
        Ok(())
    }

    /// The same for one whose deadline has passed; returns how it ended.
    fn expire(&self, number: u64) -> PyResult<Option<Failed>> {
        let under_way = lock(&self.held()?.calls).under_way.remove(&number);
        Ok(under_way.map(|under_way| failed(under_way.call.expire())))
    }
}

impl Held {
    fn begin<'py>(
        &self,
        py: Python<'py>,
        begun: Result<Call, Status>,
        is_stream: bool,
    ) -> PyResult<(u64, Vec<Event<'py>>)> {
        let number = {
            let mut calls = lock(&self.calls);
            calls.last += 1;
            calls.last
        };
        match begun {
            Err(status) => Ok((number, vec![(number, Some(Answer::Failed(failed(status))))])),
            Ok(call) => {
                let waker = Waker::from(Arc::new(Number(number, Arc::clone(&self.woken))));
                let under_way = UnderWay {
                    call,
                    waker,
                    is_stream,
                };
                lock(&self.calls).under_way.insert(number, under_way);
                self.link.send_first();
                lock(&self.woken.0).push(number);
                Ok((number, self.events(py)))
            }
        }
    }

    fn events<'py>(&self, py: Python<'py>) -> Vec<Event<'py>> {
        let mut events = Vec::new();
        let mut calls = lock(&self.calls);
        loop {
            // Polling may wake others, which is pushed meanwhile.
            let woken = std::mem::take(&mut *lock(&self.woken.0));
            if woken.is_empty() {
                break;
            }
            for number in woken {
                let Some(under_way) = calls.under_way.get(&number) else {
                    continue;
                };
                if under_way.poll(py, number, &mut events) {
                    calls.under_way.remove(&number);
                }
            }
        }
        drop(calls);
        // Windows may have opened.
        self.link.flush();
        events
    }
}

impl UnderWay {
    /// Takes all there is; true where the call has ended.
    fn poll<'py>(&self, py: Python<'py>, number: u64, events: &mut Vec<Event<'py>>) -> bool {
        let mut cx = Context::from_waker(&self.waker);
        if !self.is_stream {
            return match self.call.poll_answer(&mut cx) {
                Poll::Pending => false,
                Poll::Ready(answer) => {
                    events.push((number, Some(answered(py, answer))));
                    true
                }
            };
        }
        loop {
            match self.call.poll_message(&mut cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(Some(message))) => events.push((number, Some(answered(py, Ok(message))))),
                Poll::Ready(Ok(None)) => {
                    events.push((number, None));
                    return true;
                }
                Poll::Ready(Err(status)) => {
                    events.push((number, Some(Answer::Failed(failed(status)))));
                    return true;
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
