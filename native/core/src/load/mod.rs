//! A load generator for gRPC servers: requests at a constant rate or so many in flight, as calls or over streams.
//!
//! It runs on the calling thread and knows no models: it sends encoded messages in turn, and what it reads of an answer
//! is whether it is one. `pace` says when to send, `unary` and `stream` how, `records` what became of it.

mod answers;
mod channel;
mod outcome;
mod pace;
mod records;
mod stream;
mod tls;
mod unary;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::LocalSet;

pub use channel::ConnectError;
pub use outcome::Outcome;
pub use records::{Interval, Quantiles, Report, Sent};
pub use tls::{Tls, TlsError};

use channel::Channel;
use records::Records;
use stream::StreamCaller;
use unary::{Answer, UnaryCaller};

/// Where the server listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// Host, without the brackets of IPv6, and port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pacing {
    /// So many a second, whatever becomes of the answers; none is sent while so many are unanswered.
    Open {
        /// Requests a second.
        rate: f64,
        /// Bound of those unanswered.
        max_in_flight: usize,
    },
    /// So many in flight, each sent when one was answered.
    Closed {
        /// Requests unanswered at any time.
        in_flight: usize,
    },
    /// One on each connection, which is then silent until the run is stopped.
    Idle,
}

/// How requests travel, and what their answers look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// One call each.
    Unary,
    /// Messages of `tickserve.v1.Prediction/PredictStream`; what is sent are `PredictRequest`s.
    PredictStream,
    /// Messages of `inference.GRPCInferenceService/ModelStreamInfer`; what is sent are `ModelInferRequest`s without id.
    InferStream,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub address: Address,
    /// TLS where there is any.
    pub tls: Option<Tls>,
    /// `/package.Service/Method`.
    pub path: String,
    /// Encoded requests, sent in turn; not empty.
    pub messages: Vec<Bytes>,
    /// How they travel.
    pub travel: Travel,
    /// When they are sent.
    pub pacing: Pacing,
    /// Connections, which requests take in turn; above 0. A stream on each where there are streams.
    pub connections: usize,
    /// Time at the start that is not measured.
    pub warmup: Duration,
    /// Time that is measured, after it.
    pub duration: Duration,
    /// The deadline of a request; it is told to the server, but for messages of streams, and kept here in any case.
    pub deadline: Duration,
    /// The width of `Report::intervals`.
    pub interval: Duration,
    /// Whether every request's times are kept.
    pub keeps_times: bool,
}

/// How another thread ends a run.
#[derive(Debug, Default)]
pub struct Control {
    stops: AtomicU8,
}

impl Control {
    /// Ends the sending; answers are waited for. A second time: they are not.
    pub fn stop(&self) {
        let _previous = self
            .stops
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |stops| {
                Some(stops.saturating_add(1))
            });
    }

    fn is_stopped(&self) -> bool {
        self.stops.load(Ordering::Relaxed) > 0
    }

    fn is_abandoned(&self) -> bool {
        self.stops.load(Ordering::Relaxed) > 1
    }
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The machine refuses what a thread needs to wait for sockets.
    #[error("the load generator cannot start: {0}")]
    Runtime(#[from] std::io::Error),
    /// No connection at the start.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Puts a server under load, on this thread, until the time is over or it is stopped. `on_ready` is called once, when
/// all connections are open; of `Pacing::Idle` when each has had its answer.
///
/// Fails where a connection cannot be opened at the start; later failures are outcomes of requests.
pub fn run(options: &Options, control: &Control, on_ready: impl FnOnce()) -> Result<Report, LoadError> {
    on_this_thread(async {
        let channels = open(options).await?;
        let records = Rc::new(Records::new(options));
        match options.travel {
            Travel::Unary => {
                let callers = channels
                    .iter()
                    .map(|channel| UnaryCaller::new(options, channel))
                    .collect();
                pace::run(options, control, &records, callers, on_ready).await;
            }
            Travel::PredictStream | Travel::InferStream => {
                let callers: Vec<_> = channels
                    .iter()
                    .map(|channel| StreamCaller::new(options, channel))
                    .collect();
                pace::run(options, control, &records, callers.clone(), on_ready).await;
                for caller in callers {
                    caller.close().await;
                }
            }
        }
        Ok(records.report(&channels))
    })?
}

/// One call with the first message: how it ended, what the server said about it, and its answer.
pub fn call(options: &Options) -> Result<(Outcome, String, Bytes), LoadError> {
    on_this_thread(async {
        let channels = open(&Options {
            connections: 1,
            ..options.clone()
        })
        .await?;
        let caller = UnaryCaller::new(options, &channels[0]);
        let Answer {
            outcome,
            message,
            body,
        } = caller.ask(0).await;
        Ok((outcome, message, body))
    })?
}

async fn open(options: &Options) -> Result<Vec<Rc<Channel>>, ConnectError> {
    let mut channels = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        channels.push(Channel::open(options).await?);
    }
    Ok(channels)
}

fn on_this_thread<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(LocalSet::new().block_on(&runtime, work))
}

/// A message in the frame that gRPC puts around each.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(5 + message.len());
    frame.push(0);
    // A message has less than 4 GiB: Python's protobuf ends at 2.
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}
