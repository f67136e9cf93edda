//! Streams: one message is answered before the next is read, so a client that does not read is not read either.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{Sleep, sleep};

use super::calls;
use super::head::Head;
use super::messages::Messages;
use super::peer::Peer;
use super::reply::{Ending, Reply};
use super::routes::Route;
use super::signal::Listening;
use crate::service::{Answering, Refused};

/// How long a drain waits for a client to take an answer.
const WRITE_WAIT: Duration = Duration::from_secs(1);

/// Serves one stream to its end. A drain ends it between two messages, at once where it waits for one.
pub(super) async fn serve(peer: Rc<Peer>, head: Head, mut messages: Messages, mut reply: Reply) {
    match run(&peer, head, &mut messages, &mut reply).await {
        Ok(()) => reply.finish(),
        Err(ending) => reply.end(ending),
    }
}

async fn run(peer: &Peer, head: Head, messages: &mut Messages, reply: &mut Reply) -> Result<(), Ending> {
    let worker = &peer.worker;
    let mut listening = Listening::new(&worker.drain);
    loop {
        let next = poll_fn(|cx| {
            if listening.poll_begun(cx) {
                return Poll::Ready(Err(peer.refuse(Refused::Draining)));
            }
            messages.poll_next(cx)
        });
        let Some(message) = next.await? else { return Ok(()) };
        let arrived = Instant::now();
        if worker.turn.is_long(arrived) {
            tokio::task::yield_now().await;
        }
        let answer = answer(peer, head, message, arrived, reply).await?;
        let sent = reply.send(answer);
        peer.note_answered();
        sent?;
        taken(peer, reply, &mut listening).await?;
    }
}

/// Waits until the client takes the answer; not for long in a drain, which a client that never does would hold up.
async fn taken(peer: &Peer, reply: &mut Reply, listening: &mut Listening) -> Result<(), Ending> {
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(taken) = reply.poll_taken(cx) {
            return Poll::Ready(taken);
        }
        if !listening.poll_begun(cx) {
            return Poll::Pending;
        }
        let patience = patience.get_or_insert_with(|| Box::pin(sleep(WRITE_WAIT)));
        patience
            .as_mut()
            .poll(cx)
            .map(|()| Err(peer.refuse(Refused::Draining)))
    })
    .await
}

async fn answer(
    peer: &Peer,
    head: Head,
    message: Bytes,
    arrived: Instant,
    reply: &mut Reply,
) -> Result<Bytes, Ending> {
    let service = &peer.worker.service;
    match head.route {
        Route::AnswerStream(protocol) => {
            let arrival = peer.arrival(arrived, head.deadline);
            match peer.ask(|| service.answer(protocol, message, arrival))? {
                Answering::Now(answer) => answer.map_err(Ending::from),
                Answering::Later(later) => calls::wait(peer, later, reply).await,
            }
        }
        Route::DescribeStream(call) => {
            calls::describe(peer, |peer| peer.worker.service.describe(call, &message))
        }
        _ => Err(peer.internal()),
    }
}
