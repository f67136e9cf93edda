//! Calls from their headers on: who answers, at once where the message is there already.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use prost::Message;

use super::budget::Held;
use super::head::Head;
use super::messages::Messages;
use super::peer::Peer;
use super::reply::{Ending, Framed, Reply};
use super::routes::Route;
use super::{health, streams};
use crate::refusal::Refusal;
use crate::service::{Answering, Refused};
use crate::wire::inference::{ServerLiveResponse, ServerReadyResponse};

type Later = Pin<Box<dyn Future<Output = Result<Bytes, Refusal>>>>;

/// Begins one call, whose headers came at `arrived`. What cannot be answered at once goes on in a task of its own.
pub(super) fn begin(
    peer: &Rc<Peer>,
    request: Request<RecvStream>,
    respond: SendResponse<Framed>,
    arrived: Instant,
) {
    peer.note_call();
    let bounds = &peer.worker.shared.bounds;
    let budget = &peer.worker.budget;
    let mut reply = Reply::new(respond, Rc::clone(&peer.meter), budget, bounds.max_message_bytes);
    if reply.poll_gone(&mut Context::from_waker(Waker::noop())) {
        return;
    }
    let (parts, body) = request.into_parts();
    let head = match Head::read(&parts, arrived) {
        Ok(head) => head,
        Err(ending) => return reply.end(ending),
    };
    let is_stream = matches!(head.route, Route::AnswerStream(_) | Route::DescribeStream(_));
    let messages = Messages::new(
        body,
        head.encoding,
        !is_stream,
        bounds.max_message_bytes,
        bounds.handshake_timeout,
        Rc::clone(&peer.worker.turn),
        Held::new(budget),
    );
    match head.route {
        Route::AdminOnly => reply.end(peer.refuse(Refused::AdminOnly)),
        Route::HealthWatch => peer.spawn(health::watch(Rc::clone(peer), messages, reply)),
        Route::AnswerStream(_) | Route::DescribeStream(_) => {
            peer.spawn(streams::serve(Rc::clone(peer), head, messages, reply));
        }
        _ => single(peer, head, messages, reply, arrived),
    }
}

fn single(peer: &Rc<Peer>, head: Head, mut messages: Messages, reply: Reply, arrived: Instant) {
    match messages.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(message) => match answer(peer, head, message, arrived) {
            Answered::Now(answer) => conclude(peer, reply, answer),
            Answered::Later(later) => {
                let task = finish_later(Rc::clone(peer), later, messages, reply);
                peer.spawn(task);
            }
        },
        Poll::Pending => {
            let own = Rc::clone(peer);
            peer.spawn(async move {
                let message = messages.next().await;
                match answer(&own, head, message, arrived) {
                    Answered::Now(answer) => conclude(&own, reply, answer),
                    Answered::Later(later) => finish_later(own, later, messages, reply).await,
                }
            });
        }
    }
}

enum Answered {
    Now(Result<Bytes, Ending>),
    Later(Later),
}

/// Answers the one message of a call. More of them are not read, as gRPC's own server does not.
fn answer(peer: &Peer, head: Head, message: Result<Option<Bytes>, Ending>, arrived: Instant) -> Answered {
    let message = match message {
        Ok(Some(message)) => message,
        Ok(None) => return Answered::Now(Err(Ending::Status(13, "the call has no message"))),
        Err(ending) => return Answered::Now(Err(ending)),
    };
    let service = &peer.worker.service;
    Answered::Now(match head.route {
        Route::Answer(_) if peer.worker.drain.has_begun() => Err(peer.refuse(Refused::Draining)),
        Route::Answer(protocol) => {
            let arrival = peer.arrival(arrived, head.deadline);
            match peer.ask(|| service.answer(protocol, message, arrival)) {
                Ok(Answering::Now(answer)) => answer.map_err(Ending::from),
                Ok(Answering::Later(later)) => return Answered::Later(later),
                Err(ending) => Err(ending),
            }
        }
        Route::Describe(call) => describe(peer, |peer| peer.worker.service.describe(call, &message)),
        Route::ServerLive => Ok(ServerLiveResponse { live: true }.encode_to_vec().into()),
        Route::ServerReady => Ok(ServerReadyResponse {
            ready: peer.worker.shared.is_ready(),
        }
        .encode_to_vec()
        .into()),
        Route::HealthCheck => health::check(peer, &message),
        Route::AnswerStream(_) | Route::DescribeStream(_) | Route::HealthWatch | Route::AdminOnly => {
            Err(peer.internal())
        }
    })
}

/// Asks the service for an answer that is there at once.
pub(super) fn describe(
    peer: &Peer,
    call: impl FnOnce(&Peer) -> Result<Bytes, Refusal>,
) -> Result<Bytes, Ending> {
    peer.ask(|| call(peer))?.map_err(Ending::from)
}

/// The answer, or that the client is gone; then the request is given up.
pub(super) async fn wait(peer: &Peer, mut later: Later, reply: &mut Reply) -> Result<Bytes, Ending> {
    poll_fn(|cx| {
        if reply.poll_gone(cx) {
            return Poll::Ready(Err(Ending::Gone));
        }
        match peer.ask(|| later.as_mut().poll(cx)) {
            Ok(polled) => polled.map_err(Ending::from),
            Err(ending) => Poll::Ready(Err(ending)),
        }
    })
    .await
}

/// `messages` stays until then: without it the client would be told that nobody reads.
async fn finish_later(peer: Rc<Peer>, later: Later, messages: Messages, mut reply: Reply) {
    let answer = wait(&peer, later, &mut reply).await;
    conclude(&peer, reply, answer);
    drop(messages);
}

fn conclude(peer: &Peer, mut reply: Reply, answer: Result<Bytes, Ending>) {
    match answer.and_then(|message| reply.send(message)) {
        Ok(()) => reply.finish(),
        Err(ending) => reply.end(ending),
    }
    peer.note_answered();
}
