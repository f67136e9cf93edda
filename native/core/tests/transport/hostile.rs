//! Floods and other attacks: who makes them is closed, and others are served.

use std::io::Write;
use std::sync::atomic::Ordering;

use crate::support::{
    PREDICT, Server, bounded, code, frame, framed, goaway, opening, options, pour, raw_headers, until,
};

const ENHANCE_YOUR_CALM: u32 = 11;

/// What GOAWAY says to a client that sends `bytes` over and over; others are served afterwards.
async fn attack(bytes: Vec<u8>) -> Option<u32> {
    let server = Server::start(options());
    let mut stream = server.raw();
    let told = tokio::task::spawn_blocking(move || {
        stream.write_all(&opening()).unwrap();
        let reader = stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || goaway(reader));
        pour(&mut stream, &bytes, 100_000);
        reading.join().unwrap()
    });
    let told = bounded(told).await.unwrap();
    assert_eq!(
        server.client().await.call(PREDICT, b"hello").await.unwrap(),
        "hello"
    );
    until(|| server.connections() <= 1).await;
    told
}

#[tokio::test]
async fn floods_of_frames_that_serve_nothing_are_closed() {
    assert_eq!(attack(frame(6, 0, 0, &[0; 8])).await, Some(ENHANCE_YOUR_CALM));
    assert_eq!(attack(frame(4, 0, 0, &[])).await, Some(ENHANCE_YOUR_CALM));
    assert_eq!(
        attack(frame(2, 0, 1, &[0, 0, 0, 0, 1])).await,
        Some(ENHANCE_YOUR_CALM)
    );
    assert_eq!(
        attack(frame(0xf0, 0, 0, b"grease")).await,
        Some(ENHANCE_YOUR_CALM)
    );
}

#[tokio::test]
async fn headers_without_end_are_closed() {
    let mut first = frame(1, 0, 1, &raw_headers());
    first.extend((0..1000).flat_map(|_| frame(9, 0, 1, b"")));
    assert_eq!(attack(first).await, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn calls_that_are_taken_back_at_once_stop_nobody() {
    let server = Server::start(options());
    let mut stream = server.raw();
    let reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || goaway(reader));
    let writing = std::thread::spawn(move || {
        stream.write_all(&opening()).unwrap();
        for id in (1..200_000).step_by(2) {
            let mut bytes = frame(1, 4, id, &raw_headers());
            bytes.extend(frame(3, 0, id, &[0, 0, 0, 8]));
            if stream.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
    let client = server.client().await;
    for _ in 0..50 {
        assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
    }
    bounded(tokio::task::spawn_blocking(move || {
        (writing.join().unwrap(), reading.join().unwrap())
    }))
    .await
    .unwrap();
    until(|| server.connections() == 1).await;
    assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_client_that_reads_nothing_at_all_is_bounded() {
    let server = Server::start(options());
    let mut stream = server.raw();
    // Calls whose answers it never takes off the socket, in a window as large as there is.
    stream.write_all(&opening()).unwrap();
    stream
        .write_all(&frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]))
        .unwrap();
    stream.write_all(&frame(8, 0, 0, &[0x7f, 0, 0, 0])).unwrap();
    let message = crate::support::framed(b"big:1000000");
    for id in (1..2 * 128).step_by(2) {
        stream.write_all(&frame(1, 4, id, &raw_headers())).unwrap();
        stream.write_all(&frame(0, 1, id, &message)).unwrap();
    }
    let client = server.client().await;
    for _ in 0..50 {
        assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
    }
    drop(stream);
    until(|| server.connections() == 1).await;
}

#[tokio::test]
async fn large_headers_are_refused_and_the_connection_goes_on() {
    let server = Server::start(options());
    let client = server.client().await;
    let large = "x".repeat(20_000);
    let mut call = client.open(PREDICT, &[("large", &large)]).await;
    call.send(crate::support::framed(b"hello"), true);
    let refused = bounded(call.refused()).await;
    assert!(refused);
    assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn bytes_of_another_protocol_are_closed() {
    let server = Server::start(options());
    let mut stream = server.raw();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
        .unwrap();
    bounded(tokio::task::spawn_blocking(move || goaway(stream)))
        .await
        .unwrap();
    until(|| server.connections() == 0).await;
}

#[tokio::test]
async fn what_all_clients_leave_unfinished_is_bounded() {
    let mut options = options();
    options.bounds.max_held_bytes = 1 << 20;
    let server = Server::start(options);
    let begun = framed(&vec![0; 1 << 20]).slice(..300_000);
    let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let client = server.client().await;
        let mut call = client.open(PREDICT, &[]).await;
        call.send(begun.clone(), false);
        let told = told.clone();
        waiting.spawn(async move {
            let trailers = call.end().await;
            told.send(code(&trailers)).unwrap();
            drop(client);
        });
    }
    // Three of them fit, whichever; the others do not, and whoever sends a whole message is served.
    for _ in 0..3 {
        assert_eq!(bounded(ended.recv()).await, Some(8));
    }
    let client = server.client().await;
    assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
    // What is given up is given back.
    waiting.shutdown().await;
    assert!(ended.try_recv().is_err(), "three were waiting");
    let whole = async {
        while client.call(PREDICT, &vec![b'x'; 1 << 19]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    bounded(whole).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded() {
    let mut options = options();
    options.bounds.max_held_bytes = 1 << 20;
    let server = Server::start(options);
    let greedy = server.client().await;
    let mut calls = Vec::new();
    for _ in 0..20 {
        let mut call = greedy.open(PREDICT, &[]).await;
        call.send(framed(b"big:100000"), true);
        calls.push(call);
    }
    until(|| server.seen.answered.load(Ordering::SeqCst) == 20).await;
    assert_eq!(
        server.client().await.call(PREDICT, b"hello").await.unwrap(),
        "hello"
    );
    // Read side by side: what is not read of one call holds up the others of its connection.
    let reading = calls.into_iter().map(|mut call| {
        tokio::spawn(async move {
            match call.message().await {
                Ok(answer) => (0, answer.len()),
                Err(trailers) => (code(&trailers), 0),
            }
        })
    });
    let mut came = Vec::new();
    for answer in reading.collect::<Vec<_>>() {
        came.push(answer.await.unwrap());
    }
    assert_eq!(came.iter().filter(|came| **came == (8, 0)).count(), 10);
    assert_eq!(came.iter().filter(|came| **came == (0, 100_000)).count(), 10);
}
