//! The native client as Python holds it: bytes in, bytes or a status out, and the interpreter given back while it waits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client_link::ClientLink;
use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tickserve_core::client::{
    Call, Client, Interrupted, Method, OfProcess, Status, Target, TlsConfig, client_config, framed,
};

/// What is handed over has this format; it must agree with tickserve/client/native.py.
pub const CLIENT_FORMAT: u32 = 2;

/// Longer than any process lives.
const FOR_EVER: f64 = 1e9;

/// PEM of the authorities, and of the client's certificate and key.
type GivenTls = (Vec<u8>, Option<(Vec<u8>, Vec<u8>)>);

/// How a call ended that brought no answer: code, message, trailers, and whether the request was sent.
pub(crate) type Failed = (u32, String, Vec<(String, String)>, bool);

/// The answer of a call, or how it ended without.
#[derive(IntoPyObject)]
pub enum Answer<'py> {
    Message(Bound<'py, PyBytes>),
    Failed(Failed),
}

/// A connection to one server, replaced when it ends, and in a forked child.
#[pyclass(frozen, module = "tickserve_native")]
pub struct ClientChannel {
    target: Target,
    tls: Option<TlsConfig>,
    server_name: Option<String>,
    max_message_bytes: usize,
    held: ArcSwap<OfProcess<Arc<Client>>>,
}

/// A method of the server's.
#[pyclass(frozen, module = "tickserve_native")]
pub struct ClientMethod(pub(crate) Method);

#[pymethods]
impl ClientChannel {
    /// To a host and port, or to a socket at `path`. Raises ValueError where TLS cannot be set up so.
    #[new]
    #[pyo3(signature = (*, host, port, path, tls, server_name, max_message_bytes))]
    fn new(
        host: String,
        port: u16,
        path: Option<PathBuf>,
        tls: Option<GivenTls>,
        server_name: Option<String>,
        max_message_bytes: usize,
    ) -> PyResult<Self> {
        let target = path.map_or(Target::Tcp(host, port), Target::Unix);
        let tls = tls
            .map(|(authorities, identity)| {
                let identity = identity
                    .as_ref()
                    .map(|(certificate, key)| (&certificate[..], &key[..]));
                client_config(&authorities, identity)
            })
            .transpose()
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let client = Client::new(
            target.clone(),
            tls.clone(),
            server_name.as_deref(),
            max_message_bytes,
        );
        let client = client.map_err(PyValueError::new_err)?;
        Ok(Self {
            target,
            tls,
            server_name,
            max_message_bytes,
            held: ArcSwap::from_pointee(OfProcess::new(Arc::new(client))),
        })
    }

    /// The method at `/package.Service/Method`.
    fn method(&self, path: &str) -> PyResult<ClientMethod> {
        self.client()?
            .method(path)
            .map(ClientMethod)
            .map_err(PyValueError::new_err)
    }

    /// One unary call.
    fn call<'py>(
        &self,
        py: Python<'py>,
        method: &ClientMethod,
        message: &[u8],
        timeout_s: f64,
    ) -> PyResult<Answer<'py>> {
        let end = end_of(timeout_s);
        let client = self.client()?;
        let frame = frame_of(message)?;
        let answer = waited(py, |check| client.call(&method.0, &frame, end, check))?;
        Ok(answered(py, answer))
    }

    /// Begins a stream, once there is a connection.
    fn stream(&self, py: Python<'_>, method: &ClientMethod) -> PyResult<Begun> {
        let client = self.client()?;
        let begun = waited(py, |check| client.stream(&method.0, check))?;
        Ok(match begun {
            Ok(call) => Begun::Stream(ClientStream(OfProcess::new(Box::new(call)))),
            Err(status) => Begun::Failed(failed(status)),
        })
    }

    /// Waits for a connection that an event loop will drive.
    fn connect(&self, py: Python<'_>, timeout_s: f64) -> PyResult<Connected> {
        let end = end_of(timeout_s);
        let client = self.client()?;
        let connected = waited(py, |check| client.link(Some(end), check))?;
        Ok(match connected {
            Ok(link) => Connected::Link(ClientLink::new(client, link)),
            Err(status) => Connected::Failed(failed(status)),
        })
    }

    /// Ends what is under way, and refuses what comes.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let client = self.client()?;
        py.detach(|| client.close());
        Ok(())
    }
}

impl ClientChannel {
    /// The client of this process: a child makes its own.
    fn client(&self) -> PyResult<Arc<Client>> {
        if let Some(client) = self.held.load().get() {
            return Ok(Arc::clone(client));
        }
        let client = Client::new(
            self.target.clone(),
            self.tls.clone(),
            self.server_name.as_deref(),
            self.max_message_bytes,
        );
        let client = Arc::new(client.map_err(PyValueError::new_err)?);
        self.held.store(Arc::new(OfProcess::new(Arc::clone(&client))));
        Ok(client)
    }
}

/// A stream, or why there is none.
#[derive(IntoPyObject)]
pub enum Begun {
    Stream(ClientStream),
    Failed(Failed),
}

/// A connection, or why there is none.
#[derive(IntoPyObject)]
pub enum Connected {
    Link(ClientLink),
    Failed(Failed),
}

/// A stream under way: one thread reads it, any may send.
#[pyclass(frozen, module = "tickserve_native")]
pub struct ClientStream(OfProcess<Box<Call>>);

#[pymethods]
impl ClientStream {
    /// Sends a message; false where the stream has ended.
    fn send(&self, py: Python<'_>, message: &[u8]) -> PyResult<bool> {
        let call = self.call()?;
        // Another thread may hold the connection for a moment, and never asks for the interpreter meanwhile.
        let frame = frame_of(message)?;
        Ok(py.detach(|| call.send(frame)))
    }

    /// Says that no more will be sent.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        let call = self.call()?;
        py.detach(|| call.finish());
        Ok(())
    }

    /// Ends both directions.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        let call = self.call()?;
        py.detach(|| call.cancel());
        Ok(())
    }

    /// Waits for the next message; None at the end of a stream that ended well.
    fn read<'py>(&self, py: Python<'py>) -> PyResult<Option<Answer<'py>>> {
        let call = self.call()?;
        Ok(match waited(py, |check| call.wait_for_message(check))? {
            Ok(None) => None,
            Ok(Some(message)) => Some(answered(py, Ok(message))),
            Err(status) => Some(Answer::Failed(failed(status))),
        })
    }
}

impl ClientStream {
    fn call(&self) -> PyResult<&Call> {
        self.0
            .get()
            .map(|call| &**call)
            .ok_or_else(|| PyRuntimeError::new_err("the stream was begun before this process was forked"))
    }
}

/// Runs what waits without the interpreter, and raises what its signal handlers raise.
fn waited<T: Send>(
    py: Python<'_>,
    wait: impl FnOnce(&mut dyn FnMut() -> Result<(), Interrupted>) -> Result<T, Interrupted> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let done = py.detach(|| {
        wait(&mut || {
            // None where the interpreter ends, and this thread with it.
            Python::try_attach(|py| py.check_signals())
                .unwrap_or(Ok(()))
                .map_err(|error| {
                    raised = Some(error);
                    Interrupted
                })
        })
    });
    match done {
        Ok(value) => Ok(value),
        Err(Interrupted) => {
            Err(raised.unwrap_or_else(|| PyRuntimeError::new_err("the call was interrupted")))
        }
    }
}

pub(crate) fn answered(py: Python<'_>, answer: Result<Bytes, Status>) -> Answer<'_> {
    match answer {
        Ok(message) => Answer::Message(PyBytes::new(py, &message)),
        Err(status) => Answer::Failed(failed(status)),
    }
}

pub(crate) fn failed(status: Status) -> Failed {
    (status.code, status.message, status.trailers, status.request_sent)
}

pub(crate) fn frame_of(message: &[u8]) -> PyResult<Bytes> {
    framed(message.len(), |frame| frame.put_slice(message))
        .ok_or_else(|| PyValueError::new_err("a message holds at most 4 GiB"))
}

pub(crate) fn end_of(timeout_s: f64) -> Instant {
    Instant::now() + Duration::try_from_secs_f64(timeout_s.min(FOR_EVER)).unwrap_or_default()
}
