//! Calls of one message.

use std::io::Write as _;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use tickserve_core::transport::Listener;

use crate::support::{
    Client, PREDICT, PREDICT_STREAM, Server, bounded, code, flagged, framed, options, start_on, until,
};

#[tokio::test]
async fn a_message_is_answered() {
    let server = Server::start(options());
    let client = server.client().await;
    assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
    assert_eq!(
        client
            .call("/inference.GRPCInferenceService/ModelInfer", b"")
            .await
            .unwrap(),
        ""
    );
    let answer = client
        .call("/tickserve.v1.Prediction/GetModel", b"m")
        .await
        .unwrap();
    assert_eq!(answer, "GetModel:m");
}

#[tokio::test]
async fn a_unix_socket_is_served_too() {
    let path = std::env::temp_dir().join(format!("transport-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (_transport, _) = start_on(vec![Listener::Unix(listener)], options());
    let client = Client::over(tokio::net::UnixStream::connect(&path).await.unwrap()).await;
    assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn large_messages_pass_both_ways() {
    let server = Server::start(options());
    let client = server.client().await;
    let message = vec![7; 1 << 20];
    assert_eq!(client.call(PREDICT, &message).await.unwrap(), message);
}

#[tokio::test]
async fn a_message_may_come_byte_by_byte() {
    let server = Server::start(options());
    let mut call = server.client().await.open(PREDICT, &[]).await;
    let bytes = framed(b"hello");
    for index in 0..bytes.len() {
        call.send(bytes.slice(index..=index), index + 1 == bytes.len());
        tokio::task::yield_now().await;
    }
    assert_eq!(call.message().await.unwrap(), "hello");
}

#[tokio::test]
async fn what_is_no_call_gets_the_status_that_grpc_gives() {
    let server = Server::start(options());
    let client = server.client().await;
    let hello = || framed(b"hello");
    assert_eq!(
        client.status("/tickserve.v1.Prediction/Nope", &[], hello()).await,
        12
    );
    assert_eq!(client.status("/nope/Predict", &[], hello()).await, 12);
    assert_eq!(client.status(PREDICT, &[], Bytes::new()).await, 13);
    assert_eq!(client.status(PREDICT, &[], hello().slice(..7)).await, 13);
    assert_eq!(client.status(PREDICT, &[], flagged(2, b"hello")).await, 13);
    assert_eq!(client.status(PREDICT, &[], flagged(1, b"hello")).await, 13);
    assert_eq!(
        client
            .status(PREDICT, &[("grpc-encoding", "zstd")], hello())
            .await,
        13
    );
    assert_eq!(
        client
            .status(PREDICT, &[("grpc-encoding", "gzip")], flagged(1, b"hello"))
            .await,
        13
    );
    assert_eq!(
        client.status(PREDICT, &[("grpc-timeout", "5x")], hello()).await,
        13
    );
    assert_eq!(
        client.status(PREDICT, &[("grpc-timeout", "0m")], hello()).await,
        4
    );
    assert_eq!(
        client.status(PREDICT, &[], framed(&vec![0; (1 << 20) + 1])).await,
        8
    );
    assert_eq!(server.seen.answered.load(Ordering::SeqCst), 0);
    // Of more messages than one the first is answered.
    assert_eq!(
        client
            .status(PREDICT, &[], Bytes::from([hello(), hello()].concat()))
            .await,
        0
    );
    assert_eq!(
        client
            .status(PREDICT, &[("content-type", "application/json")], hello())
            .await,
        0
    );
    assert_eq!(server.seen.answered.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_answer_over_the_bound_is_withheld() {
    let server = Server::start(options());
    let client = server.client().await;
    assert_eq!(client.status(PREDICT, &[], framed(b"big:1048577")).await, 8);
}

#[tokio::test]
async fn gzip_and_deflate_are_read_up_to_the_bound() {
    let server = Server::start(options());
    let client = server.client().await;
    let plain = "hello".repeat(1000);
    let bomb = vec![0; 16 << 20];
    for encoding in ["gzip", "deflate"] {
        let mut call = client.open(PREDICT, &[("grpc-encoding", encoding)]).await;
        call.send(flagged(1, &compressed(encoding, plain.as_bytes())), true);
        assert_eq!(call.message().await.unwrap(), plain);
        let headers = [("grpc-encoding", encoding)];
        let message = flagged(1, &compressed(encoding, &bomb));
        assert_eq!(client.status(PREDICT, &headers, message).await, 8);
    }
    assert_eq!(server.seen.answered.load(Ordering::SeqCst), 2);
    // As many compressed messages as one stream has, some of them plain.
    let mut call = client.open(PREDICT_STREAM, &[("grpc-encoding", "gzip")]).await;
    for _ in 0..3 {
        call.send(flagged(1, &compressed("gzip", b"one")), false);
        call.send(framed(b"two"), false);
        assert_eq!(call.message().await.unwrap(), "one");
        assert_eq!(call.message().await.unwrap(), "two");
    }
}

fn compressed(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    if encoding == "gzip" {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    } else {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }
}

#[tokio::test]
async fn a_refusal_leaves_as_trailers() {
    let server = Server::start(options());
    let trailers = server.client().await.call(PREDICT, b"refuse").await.unwrap_err();
    assert_eq!(code(&trailers), 3);
    assert_eq!(trailers["grpc-message"], "not so: %C3%A9");
    assert_eq!(trailers["tickserve-executed"], "0");
    assert_eq!(trailers["tickserve-reason"], "INVALID_INPUT");
    assert_eq!(trailers["tickserve-field"], "a%20field");
    assert_eq!(trailers["content-type"], "application/grpc");
}

#[tokio::test]
async fn what_changes_state_is_refused() {
    let server = Server::start(options());
    let client = server.client().await;
    for path in [
        "/tickserve.v1.Control/Halt",
        "/inference.GRPCInferenceService/RepositoryModelLoad",
    ] {
        let trailers = client.call(path, b"").await.unwrap_err();
        assert_eq!(
            (code(&trailers), trailers.contains_key("tickserve-reason")),
            (7, false),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_deadline_is_handed_on() {
    let server = Server::start(options());
    let client = server.client().await;
    let mut call = client.open(PREDICT, &[("grpc-timeout", "1500m")]).await;
    call.send(framed(b"deadline"), true);
    assert_eq!(call.message().await.unwrap(), "Some(1500)");
    assert_eq!(client.call(PREDICT, b"deadline").await.unwrap(), "None");
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_a_fault() {
    let server = Server::start(options());
    let client = server.client().await;
    for (path, message) in [
        (PREDICT, "panic"),
        (PREDICT, "panic-later"),
        (PREDICT_STREAM, "panic"),
        ("/tickserve.v1.Prediction/GetModel", "panic"),
    ] {
        let trailers = client.call(path, message.as_bytes()).await.unwrap_err();
        assert_eq!(
            (code(&trailers), &trailers["tickserve-reason"]),
            (13, &"INTERNAL".parse().unwrap()),
            "{path}"
        );
    }
    assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
    let faults = server.transport.take_faults();
    assert_eq!((server.transport.fault_count(), faults.len()), (4, 4));
    assert!(
        faults
            .iter()
            .all(|text| text.contains("asked to") && text.contains("support.rs")),
        "{faults:?}"
    );
    assert!(server.transport.is_alive(crate::support::BOUND));
}

#[tokio::test]
async fn a_call_taken_back_is_given_up() {
    let server = Server::start(options());
    let client = server.client().await;
    let mut call = client.open(PREDICT, &[]).await;
    call.send(framed(b"wait"), true);
    until(|| server.seen.answered.load(Ordering::SeqCst) == 1).await;
    call.sender.send_reset(h2::Reason::CANCEL);
    until(|| server.seen.given_up.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_client_is_shared_by_its_connections_until_the_last() {
    let server = Server::start(options());
    let (first, second) = (server.client().await, server.client().await);
    let of_first = first.call(PREDICT, b"client").await.unwrap();
    assert_ne!(of_first, "0");
    assert_eq!(of_first, second.call(PREDICT, b"client").await.unwrap());
    assert_eq!(server.transport.clients(), 1);
    drop((first, second));
    until(|| server.transport.clients() == 0).await;
    bounded(async {}).await;
}
