//! The client against a real HTTP/2 server on a real socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::TcpListener;

use super::{Client, Interrupted, Target, code, framed};

const BOUND: Duration = Duration::from_secs(20);

/// Echoes each call's message after as many milliseconds as its first byte says; 255 means never.
fn echo_server(connections: Arc<AtomicUsize>) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::task::spawn_local(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::task::spawn_local(echo(request, respond));
                    }
                });
            }
        });
    });
    receiver.recv().unwrap()
}

async fn echo(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
    }
    match message.get(5) {
        Some(255) => std::future::pending::<()>().await,
        Some(&delay) => tokio::time::sleep(Duration::from_millis(u64::from(delay))).await,
        None => {}
    }
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    // The client may have gone meanwhile.
    if let Ok(mut sending) = respond.send_response(head, false) {
        let _ = sending.send_data(Bytes::from(message), false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = sending.send_trailers(trailers);
    }
}

fn client(address: SocketAddr) -> Arc<Client> {
    let target = Target::Tcp(address.ip().to_string(), address.port());
    Arc::new(Client::new(target, None, None, 64 << 20).unwrap())
}

fn call(client: &Arc<Client>, message: &[u8], timeout: Duration) -> Result<Bytes, super::Status> {
    let method = client.method("/x.Y/Z").unwrap();
    let frame = framed(message.len(), |frame| frame.put_slice(message)).unwrap();
    client
        .call(&method, &frame, Instant::now() + timeout, &mut || Ok(()))
        .unwrap()
}

#[test]
fn threads_share_one_connection_and_a_fast_call_does_not_wait_for_a_slow_one() {
    let connections = Arc::new(AtomicUsize::new(0));
    let client = client(echo_server(Arc::clone(&connections)));
    call(&client, &[0], BOUND).unwrap();
    let never = {
        let client = Arc::clone(&client);
        thread::spawn(move || call(&client, &[255], BOUND))
    };
    let threads: Vec<_> = (0..8u8)
        .map(|number| {
            let client = Arc::clone(&client);
            thread::spawn(move || {
                for round in 0..100u8 {
                    let message = [round % 3, number, round];
                    assert_eq!(&call(&client, &message, BOUND).unwrap()[..], message);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(!never.is_finished());
    client.close();
    assert_eq!(never.join().unwrap().unwrap_err().code, code::CANCELLED);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_deadline_stands_and_the_connection_goes_on() {
    let client = client(echo_server(Arc::default()));
    let failed = call(&client, &[255], Duration::from_millis(50)).unwrap_err();
    assert_eq!(
        (failed.code, failed.request_sent),
        (code::DEADLINE_EXCEEDED, true)
    );
    assert_eq!(&call(&client, &[0, 7], BOUND).unwrap()[..], [0, 7]);
}

#[test]
fn messages_larger_than_every_window_go_both_ways() {
    let client = client(echo_server(Arc::default()));
    let message: Vec<u8> = std::iter::once(0)
        .chain((0..40_000_000u32).map(|number| number as u8))
        .collect();
    assert!(call(&client, &message, Duration::from_secs(60)).unwrap() == message);
}

#[test]
fn whoever_is_told_to_stop_stops() {
    let client = client(echo_server(Arc::default()));
    let method = client.method("/x.Y/Z").unwrap();
    let frame = framed(1, |frame| frame.put_u8(255)).unwrap();
    let mut asked = 0;
    let stopped = client.call(&method, &frame, Instant::now() + BOUND, &mut || {
        asked += 1;
        if asked == 2 { Err(Interrupted) } else { Ok(()) }
    });
    assert_eq!(stopped.unwrap_err(), Interrupted);
    assert_eq!(&call(&client, &[0], BOUND).unwrap()[..], [0]);
}

#[test]
fn nobody_there_is_known_not_to_have_been_sent_to() {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = bound.local_addr().unwrap();
    drop(bound);
    let failed = call(&client(address), &[0], BOUND).unwrap_err();
    assert_eq!((failed.code, failed.request_sent), (code::UNAVAILABLE, false));
}
