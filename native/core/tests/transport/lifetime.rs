//! Clocks and bounds of connections, carried out.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tickserve_core::transport::{Bounds, Options};

use crate::support::{
    PREDICT, PREDICT_STREAM, Server, bounded, code, frame, framed, opening, options, until,
};

const SHORT: Duration = Duration::from_millis(30);

fn bounds(change: impl FnOnce(&mut Bounds)) -> Options {
    let mut options = options();
    change(&mut options.bounds);
    options
}

#[tokio::test]
async fn who_does_not_complete_the_handshake_is_closed() {
    let server = Server::start(bounds(|bounds| bounds.handshake_timeout = SHORT));
    let (silent, mut half, mut without_settings) = (server.raw(), server.raw(), server.raw());
    half.write_all(&opening()[..10]).unwrap();
    without_settings.write_all(&opening()[..24]).unwrap();
    for mut stream in [silent, half, without_settings] {
        let ended = tokio::task::spawn_blocking(move || stream.read_to_end(&mut Vec::new()).is_ok());
        assert!(bounded(ended).await.unwrap());
    }
    until(|| server.connections() == 0).await;
}

#[tokio::test]
async fn who_does_not_answer_a_ping_is_closed() {
    let server = Server::start(bounds(|bounds| {
        (bounds.keepalive, bounds.keepalive_timeout) = (SHORT, SHORT)
    }));
    let mut stream = server.raw();
    stream.write_all(&opening()).unwrap();
    // Part of a frame is no sign of life.
    stream.write_all(&frame(0, 0, 1, b"data")[..11]).unwrap();
    bounded(tokio::task::spawn_blocking(move || {
        stream.read_to_end(&mut Vec::new())
    }))
    .await
    .unwrap()
    .unwrap();
    until(|| server.connections() == 0).await;
}

#[tokio::test]
async fn who_answers_pings_stays() {
    let server = Server::start(bounds(|bounds| {
        (bounds.keepalive, bounds.keepalive_timeout) = (SHORT, Duration::from_secs(30))
    }));
    let client = server.client().await;
    let mut stream = server.raw();
    stream.write_all(&opening()).unwrap();
    // The other is pinged several times before this one has seen three pings.
    for _ in 0..3 {
        let ping = next_ping(&mut stream);
        stream.write_all(&frame(6, 1, 0, &ping)).unwrap();
    }
    assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
}

fn next_ping(stream: &mut std::net::TcpStream) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        if (head[3], head[4] & 1) == (6, 0) {
            return payload;
        }
    }
}

#[tokio::test]
async fn a_message_that_stalls_ends_its_call() {
    let server = Server::start(bounds(|bounds| {
        bounds.handshake_timeout = Duration::from_millis(300)
    }));
    let client = server.client().await;
    let mut unary = client.open(PREDICT, &[]).await;
    let mut stream = client.open(PREDICT_STREAM, &[]).await;
    stream.send(framed(b"one"), false);
    assert_eq!(stream.message().await.unwrap(), "one");
    let mut waiting = client.open(PREDICT_STREAM, &[]).await;
    waiting.send(framed(b"one"), false);
    stream.send(framed(b"two").slice(..6), false);
    assert_eq!(code(&unary.end().await), 1);
    assert_eq!(code(&stream.end().await), 1);
    // Between messages a stream may wait.
    assert_eq!(waiting.message().await.unwrap(), "one");
    waiting.send(framed(b"two"), true);
    assert_eq!(waiting.message().await.unwrap(), "two");
}

#[tokio::test]
async fn connections_over_the_bound_are_closed() {
    let server = Server::start(bounds(|bounds| bounds.max_connections = 2));
    let (first, second) = (server.client().await, server.client().await);
    // It does not even see the server's SETTINGS.
    let mut third = server.raw();
    let seen = tokio::task::spawn_blocking(move || third.read(&mut [0]).unwrap());
    assert_eq!(bounded(seen).await.unwrap(), 0);
    assert_eq!(first.call(PREDICT, b"hello").await.unwrap(), "hello");
    drop(second);
    until(|| server.connections() == 1).await;
    assert_eq!(
        server.client().await.call(PREDICT, b"hello").await.unwrap(),
        "hello"
    );
}

#[tokio::test]
async fn an_idle_connection_is_retired_and_one_with_a_call_is_not() {
    let server = Server::start(bounds(|bounds| bounds.idle = SHORT));
    let (mut idle, busy) = (server.client().await, server.client().await);
    let mut call = busy.open(PREDICT, &[]).await;
    call.send(framed(b"wait"), true);
    until(|| server.seen.answered.load(Ordering::SeqCst) == 1).await;
    assert_eq!(idle.end().await, None);
    server.seen.gate.send_replace(true);
    assert_eq!(call.message().await.unwrap(), "wait");
}

#[tokio::test]
async fn an_old_connection_is_retired_and_closed_after_its_grace() {
    let server = Server::start(bounds(|bounds| (bounds.age, bounds.age_grace) = (SHORT, SHORT)));
    let mut client = server.client().await;
    let mut call = client.open(PREDICT, &[]).await;
    call.send(framed(b"wait"), true);
    client.end().await;
    until(|| server.seen.given_up.load(Ordering::SeqCst) == 1).await;
    until(|| server.connections() == 0).await;
}

#[tokio::test]
async fn a_thousand_connections_leave_nothing() {
    let server = Server::start(options());
    for _ in 0..10 {
        let mut clients = Vec::new();
        for _ in 0..100 {
            clients.push(server.client().await);
        }
        assert_eq!(clients[0].call(PREDICT, b"hello").await.unwrap(), "hello");
    }
    until(|| server.connections() == 0).await;
    assert_eq!(server.transport.clients(), 0);
    assert_eq!(
        server.client().await.call(PREDICT, b"hello").await.unwrap(),
        "hello"
    );
}
