//! Streams of messages.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::support::{PREDICT, PREDICT_STREAM, Server, code, framed, options, until};

#[tokio::test]
async fn messages_are_answered_in_order_and_one_at_a_time() {
    let server = Server::start(options());
    let client = server.client().await;
    let mut call = client.open(PREDICT_STREAM, &[]).await;
    call.send(
        Bytes::from([framed(b"one"), framed(b"wait"), framed(b"two")].concat()),
        true,
    );
    assert_eq!(call.message().await.unwrap(), "one");
    until(|| server.seen.answered.load(Ordering::SeqCst) == 2).await;
    // The same worker serves others meanwhile, and does not go on to the third.
    assert_eq!(client.call(PREDICT, b"other").await.unwrap(), "other");
    assert_eq!(server.seen.answered.load(Ordering::SeqCst), 3);
    server.seen.gate.send_replace(true);
    assert_eq!(call.message().await.unwrap(), "wait");
    assert_eq!(call.message().await.unwrap(), "two");
    assert_eq!(code(&call.end().await), 0);
}

#[tokio::test]
async fn a_stream_without_messages_ends_well() {
    let server = Server::start(options());
    assert_eq!(
        server
            .client()
            .await
            .status(PREDICT_STREAM, &[], Bytes::new())
            .await,
        0
    );
}

#[tokio::test]
async fn thousands_of_small_messages_may_be_pipelined() {
    let server = Server::start(options());
    let mut call = server.client().await.open(PREDICT_STREAM, &[]).await;
    for index in 0..5000u32 {
        // A frame for each: h2 takes many small ones for an attack, unless it is told otherwise.
        call.send(framed(format!("message {index:06}").as_bytes()), index == 4999);
    }
    for index in 0..5000u32 {
        assert_eq!(call.message().await.unwrap(), format!("message {index:06}"));
    }
    assert_eq!(code(&call.end().await), 0);
}

#[tokio::test]
async fn a_refusal_ends_the_stream_after_the_answers_before_it() {
    let server = Server::start(options());
    let mut call = server.client().await.open(PREDICT_STREAM, &[]).await;
    call.send(
        Bytes::from([framed(b"one"), framed(b"refuse"), framed(b"two")].concat()),
        false,
    );
    assert_eq!(call.message().await.unwrap(), "one");
    assert_eq!(code(&call.message().await.unwrap_err()), 3);
}

#[tokio::test]
async fn an_oversize_message_ends_the_stream_after_the_answers_before_it() {
    let server = Server::start(options());
    let mut call = server.client().await.open(PREDICT_STREAM, &[]).await;
    call.send(framed(b"one"), false);
    assert_eq!(call.message().await.unwrap(), "one");
    call.send(framed(&vec![0; (1 << 20) + 1]).slice(..1000), false);
    assert_eq!(code(&call.end().await), 8);
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_read_either_and_stops_nobody() {
    let server = Server::start(options());
    let greedy = server.client().await;
    let mut call = greedy.open(PREDICT_STREAM, &[]).await;
    for _ in 0..100 {
        call.send(framed(b"big:100000"), false);
    }
    // One answer fills its window; the next message is not read.
    until(|| server.seen.answered.load(Ordering::SeqCst) >= 1).await;
    let other = server.client().await;
    for _ in 0..100 {
        assert_eq!(other.call(PREDICT, b"hello").await.unwrap(), "hello");
    }
    assert_eq!(server.seen.answered.load(Ordering::SeqCst), 101);
    // When it does read, it goes on.
    for _ in 0..100 {
        assert_eq!(call.message().await.unwrap().len(), 100_000);
    }
}

#[tokio::test]
async fn long_messages_of_one_stream_leave_turns_to_others() {
    let server = Server::start(options());
    let (greedy, other) = (server.client().await, server.client().await);
    let mut call = greedy.open(PREDICT_STREAM, &[]).await;
    for _ in 0..500 {
        call.send(framed(b"spin:2000"), false);
    }
    until(|| server.seen.answered.load(Ordering::SeqCst) >= 1).await;
    for _ in 0..10 {
        assert_eq!(other.call(PREDICT, b"hello").await.unwrap(), "hello");
    }
    // All of it takes a second: the other did not have to wait for that.
    assert!(server.seen.answered.load(Ordering::SeqCst) < 400);
}

#[tokio::test]
async fn reflection_is_a_stream_of_descriptions() {
    let server = Server::start(options());
    let client = server.client().await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let mut call = client.open(&path, &[]).await;
        for message in ["a", "b"] {
            call.send(framed(message.as_bytes()), message == "b");
            assert_eq!(
                call.message().await.unwrap(),
                format!("ServerReflectionInfo:{message}")
            );
        }
        assert_eq!(code(&call.end().await), 0);
    }
}
