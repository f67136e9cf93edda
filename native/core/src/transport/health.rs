//! grpc.health.v1: whether the server takes requests. It needs neither a model nor any other thread.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use prost::Message;

use super::messages::Messages;
use super::peer::Peer;
use super::reply::{Ending, Reply};
use super::signal::Listening;
use crate::service::Refused;
use crate::wire::grpc::health::v1::health_check_response::ServingStatus;
use crate::wire::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};

/// Names whose health is told; every one has the state of the whole server.
const SERVICES: [&str; 3] = ["", "inference.GRPCInferenceService", "tickserve.v1.Prediction"];

/// Answers Check.
pub(super) fn check(peer: &Peer, message: &[u8]) -> Result<Bytes, Ending> {
    let request = parse(peer, message)?;
    if !is_known(&request) {
        return Err(peer.refuse(Refused::UnknownService(&request.service)));
    }
    Ok(told(status(true, peer.worker.shared.is_ready())))
}

/// Serves Watch: the state now and at each change, until the drain. A service that is not known may become so, says
/// the protocol, and is told as that.
pub(super) async fn watch(peer: Rc<Peer>, mut messages: Messages, mut reply: Reply) {
    let ending = watch_until_it_ends(&peer, &mut messages, &mut reply).await;
    reply.end(ending);
}

async fn watch_until_it_ends(peer: &Peer, messages: &mut Messages, reply: &mut Reply) -> Ending {
    let request = match messages.next().await {
        Ok(Some(message)) => parse(peer, &message),
        Ok(None) => Err(Ending::Status(13, "the call has no message")),
        Err(ending) => Err(ending),
    };
    let is_known = match request {
        Ok(request) => is_known(&request),
        Err(ending) => return ending,
    };
    let mut readiness = peer.worker.shared.readiness();
    let mut listening = Listening::new(&peer.worker.drain);
    let mut last = None;
    loop {
        let now = status(is_known, *readiness.borrow_and_update());
        if last != Some(now) {
            last = Some(now);
            if let Err(ending) = reply.send(told(now)) {
                return ending;
            }
        }
        let mut changed = pin!(readiness.changed());
        let ending = poll_fn(|cx| {
            if listening.poll_begun(cx) {
                return Poll::Ready(Some(peer.refuse(Refused::Draining)));
            }
            if reply.poll_gone(cx) {
                return Poll::Ready(Some(Ending::Gone));
            }
            changed.as_mut().poll(cx).map(|_| None)
        });
        if let Some(ending) = ending.await {
            return ending;
        }
    }
}

fn parse(peer: &Peer, message: &[u8]) -> Result<HealthCheckRequest, Ending> {
    HealthCheckRequest::decode(message).map_err(|_| peer.refuse(Refused::Malformed("HealthCheckRequest")))
}

fn is_known(request: &HealthCheckRequest) -> bool {
    SERVICES.contains(&request.service.as_str())
}

fn status(is_known: bool, is_ready: bool) -> ServingStatus {
    match (is_known, is_ready) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, true) => ServingStatus::Serving,
        (true, false) => ServingStatus::NotServing,
    }
}

fn told(status: ServingStatus) -> Bytes {
    HealthCheckResponse {
        status: status.into(),
    }
    .encode_to_vec()
    .into()
}
