//! Stopping: what is refused, what still ends, and that it ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{BOUND, Client, PREDICT, PREDICT_STREAM, Server, bounded, code, framed, options, until};

#[tokio::test]
async fn a_drain_refuses_what_is_new_and_ends_what_is_not() {
    let server = Server::start(options());
    let client = server.client().await;
    let mut idle = client.open(PREDICT_STREAM, &[]).await;
    idle.send(framed(b"one"), false);
    assert_eq!(idle.message().await.unwrap(), "one");
    let mut stream = client.open(PREDICT_STREAM, &[]).await;
    stream.send(framed(b"wait"), false);
    stream.send(framed(b"not read"), false);
    let mut unary = client.open(PREDICT, &[]).await;
    unary.send(framed(b"wait"), true);
    // Open before the drain, with its message only after it.
    let mut late = client.open(PREDICT, &[]).await;
    until(|| server.seen.answered.load(Ordering::SeqCst) == 3).await;

    let (transport, seen, address) = (server.transport, server.seen, server.address);
    let stopping = tokio::task::spawn_blocking(move || transport.stop(BOUND));
    // A stream that waits for a message ends at once.
    let trailers = idle.message().await.unwrap_err();
    assert_eq!(
        (code(&trailers), &trailers["tickserve-reason"]),
        (14, &"DRAINING".parse().unwrap())
    );
    assert_eq!(trailers["tickserve-executed"], "0");
    // Somebody new is told as well, for as long as something is in flight.
    let new = Client::over(tokio::net::TcpStream::connect(address).await.unwrap()).await;
    assert_eq!(code(&new.call(PREDICT, b"new").await.unwrap_err()), 14);
    late.send(framed(b"late"), true);
    assert_eq!(code(&late.end().await), 14);
    // What is being answered is answered; the stream then ends.
    seen.gate.send_replace(true);
    assert_eq!(stream.message().await.unwrap(), "wait");
    assert_eq!(code(&stream.message().await.unwrap_err()), 14);
    assert_eq!(unary.message().await.unwrap(), "wait");
    assert_eq!(code(&unary.end().await), 0);
    bounded(stopping).await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert_eq!(seen.answered.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn clients_are_told_to_go_elsewhere() {
    let mut options = options();
    options.bounds.handshake_timeout = 100 * BOUND;
    let server = Server::start(options);
    let mut client = server.client().await;
    client.call(PREDICT, b"hello").await.unwrap();
    // Who never came to speak is not waited for.
    let _dumb = server.raw();
    until(|| server.connections() == 2).await;
    let transport = server.transport;
    let stopping = tokio::task::spawn_blocking(move || transport.stop(BOUND));
    assert_eq!(client.end().await, None);
    bounded(stopping).await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_is_closed() {
    let server = Server::start(options());
    let mut client = server.client().await;
    let mut call = client.open(PREDICT, &[]).await;
    call.send(framed(b"wait"), true);
    let _dumb = server.raw();
    until(|| server.seen.answered.load(Ordering::SeqCst) == 1).await;
    let (transport, seen) = (server.transport, server.seen);
    bounded(tokio::task::spawn_blocking(move || {
        transport.stop(Duration::from_millis(20))
    }))
    .await
    .unwrap();
    assert_eq!(seen.given_up.load(Ordering::SeqCst), 1);
    client.end().await;
}

#[tokio::test]
async fn stopping_twice_or_by_dropping_is_as_good() {
    let server = Server::start(options());
    server.client().await.call(PREDICT, b"hello").await.unwrap();
    server.transport.stop(Duration::ZERO);
    server.transport.stop(Duration::ZERO);
    assert!(!server.transport.is_alive(Duration::from_millis(10)));
    let server = Server::start(options());
    let address = server.address;
    drop(server);
    assert!(std::net::TcpStream::connect(address).is_err());
}
