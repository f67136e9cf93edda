//! The seam between the transport, which knows bytes and HTTP/2, and the pipeline, which knows models.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bytes::Bytes;

use crate::refusal::Refusal;

/// What a request message is, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// ModelInferRequest, answered by ModelInferResponse.
    Infer,
    /// PredictRequest, answered by PredictResponse.
    Predict,
    /// One message of ModelStreamInfer, answered by ModelStreamInferResponse; refusals are inside it.
    InferStream,
    /// One PredictStreamRequest, answered by PredictStreamResponse; refusals are inside it.
    PredictStream,
}

/// A call that is answered at once, from what is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Describe {
    ServerMetadata,
    ModelReady,
    ModelMetadata,
    ModelConfig,
    ModelStatistics,
    RepositoryIndex,
    GetModel,
    ServerReflectionInfo,
}

/// Who asks: one for each client identity (mTLS subject, else peer address), shared by its connections.
#[derive(Debug, Default)]
pub struct Client {
    /// Requests accepted and unanswered.
    pub in_flight: AtomicUsize,
}

/// What the transport knows of one request or one message of a stream.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The call into the service: for a unary call when its headers came, for a message of a stream when it was whole.
    pub arrived: Instant,
    /// From grpc-timeout.
    pub deadline: Option<Instant>,
    /// The client, where clients are bounded.
    pub client: Option<Arc<Client>>,
    /// Who asks: mTLS subject, else peer address.
    pub identity: Rc<str>,
}

/// An answer: at once, or when a thread of the pool is through. Dropping the future gives the request up.
pub enum Answering {
    /// It ran inline, or was refused.
    Now(Result<Bytes, Refusal>),
    /// It runs on the pool.
    Later(Pin<Box<dyn Future<Output = Result<Bytes, Refusal>>>>),
}

/// What answers on one worker thread. For the streaming protocols `Err` ends the stream.
pub trait Service: 'static {
    /// Answers one request.
    fn answer(&self, protocol: Protocol, message: Bytes, arrival: Arrival) -> Answering;

    /// The answer that was given last is in line to be sent, or nobody wants it: what is to come after it may.
    fn answered(&self) {}

    /// Answers a describing call.
    fn describe(&self, call: Describe, message: &[u8]) -> Result<Bytes, Refusal>;

    /// The refusal for what the transport itself refuses.
    fn refuse(&self, refused: Refused<'_>) -> Refusal;
}

/// What the transport refuses without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    /// Draining: new calls and streams.
    Draining,
    /// A call that changes state, on the data listener.
    AdminOnly,
    /// Health of a service that is not here.
    UnknownService(&'a str),
    /// A message that does not decode.
    Malformed(&'a str),
}
