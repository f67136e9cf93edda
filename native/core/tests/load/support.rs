//! A server that answers, refuses or stalls as its requests say.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use tickserve_core::load::{Address, Options, Pacing, Report, Travel};
use tickserve_core::refusal::{Reason, Refusal};
use tickserve_core::service::{Answering, Arrival, Describe, Protocol, Refused, Service};
use tickserve_core::transport::{self, Bounds, Listener, Transport};
use tickserve_core::wire::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use tickserve_core::wire::tickserve::v1::{
    self, PredictResponse, PredictStreamRequest, PredictStreamResponse, predict_stream_request,
    predict_stream_response,
};

pub const UNARY: &str = "/tickserve.v1.Prediction/Predict";
pub const PREDICT_STREAM: &str = "/tickserve.v1.Prediction/PredictStream";
pub const INFER_STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
/// How long the request of this number, counted from 0, holds up its worker.
pub const STALL: (usize, Duration) = (50, Duration::from_millis(300));

struct Scripted {
    seen: Arc<AtomicUsize>,
}

impl Service for Scripted {
    fn answer(&self, protocol: Protocol, message: Bytes, _arrival: Arrival) -> Answering {
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        Answering::Now(match protocol {
            Protocol::PredictStream => {
                let asked = PredictStreamRequest::decode(message).unwrap();
                let Some(predict_stream_request::Request::Predict(request)) = asked.request else {
                    panic!("an empty request");
                };
                let result = if request.model == "refuse" {
                    predict_stream_response::Result::Error(v1::Error {
                        code: 9,
                        reason: v1::Reason::Halted.into(),
                        ..Default::default()
                    })
                } else {
                    predict_stream_response::Result::Answer(PredictResponse::default())
                };
                let answer = PredictStreamResponse {
                    sequence: asked.sequence,
                    result: Some(result),
                };
                Ok(answer.encode_to_vec().into())
            }
            Protocol::InferStream => {
                let asked = ModelInferRequest::decode(message).unwrap();
                let is_refused = asked.model_name == "refuse";
                let answer = ModelStreamInferResponse {
                    error_message: if is_refused {
                        "no".to_owned()
                    } else {
                        String::new()
                    },
                    infer_response: Some(ModelInferResponse {
                        id: asked.id,
                        ..Default::default()
                    }),
                };
                Ok(answer.encode_to_vec().into())
            }
            _ if message == b"refuse"[..] => Err(refusal(8, Reason::Overloaded)),
            _ if message == b"stall"[..] && number == STALL.0 => {
                let until = Instant::now() + STALL.1;
                while Instant::now() < until {}
                Ok(message)
            }
            _ => Ok(message),
        })
    }

    fn describe(&self, _call: Describe, _message: &[u8]) -> Result<Bytes, Refusal> {
        Err(refusal(12, Reason::Internal))
    }

    fn refuse(&self, _refused: Refused<'_>) -> Refusal {
        refusal(14, Reason::Draining)
    }
}

fn refusal(code: i32, reason: Reason) -> Refusal {
    Refusal {
        code,
        reason: Some(reason),
        message: "as asked".to_owned(),
        field: String::new(),
        executed: false,
        request_id: String::new(),
    }
}

/// Listens on loopback until it is dropped.
pub struct Server {
    pub address: Address,
    pub seen: Arc<AtomicUsize>,
    transport: Transport,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = address(&listener);
        Self::on(Listener::Tcp(listener), address)
    }

    pub fn on(listener: Listener, address: Address) -> Self {
        let seen = Arc::new(AtomicUsize::new(0));
        let options = transport::Options {
            bounds: Bounds {
                max_message_bytes: 1 << 20,
                ..Bounds::default()
            },
            tls: None,
            workers: 1,
            cpus: Vec::new(),
            bounds_clients: false,
            internal: refusal(13, Reason::Internal),
        };
        let shared = Arc::clone(&seen);
        let transport = Transport::start(vec![listener], options, move |_| {
            Rc::new(Scripted {
                seen: Arc::clone(&shared),
            })
        })
        .unwrap();
        transport.set_ready(true);
        Self {
            address,
            seen,
            transport,
        }
    }

    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    pub fn stop(&self) {
        self.transport.stop(Duration::from_millis(200));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn address(listener: &TcpListener) -> Address {
    Address::Tcp("127.0.0.1".to_owned(), listener.local_addr().unwrap().port())
}

/// Half a second, a closed loop of one.
pub fn options(address: &Address, message: impl Into<Bytes>) -> Options {
    Options {
        address: address.clone(),
        tls: None,
        path: UNARY.to_owned(),
        messages: vec![message.into()],
        travel: Travel::Unary,
        pacing: Pacing::Closed { in_flight: 1 },
        connections: 1,
        warmup: Duration::ZERO,
        duration: Duration::from_millis(500),
        deadline: Duration::from_secs(10),
        interval: Duration::from_millis(100),
        keeps_times: true,
    }
}

/// Names and numbers of the outcomes that there were.
pub fn outcomes(report: &Report) -> Vec<(&str, u64)> {
    let there = report.outcomes.iter().filter(|(_, count)| *count > 0);
    there.map(|(name, count)| (name.as_str(), *count)).collect()
}
