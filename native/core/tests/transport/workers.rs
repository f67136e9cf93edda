//! Workers: how connections are shared out, and what is seen of a worker that is stuck or gone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message;
use tickserve_core::transport::Options;
use tickserve_core::wire::inference::ServerReadyResponse;

use crate::support::{BOUND, Client, PREDICT, Server, framed, listening, options, start_with, until};

#[tokio::test]
async fn connections_go_to_the_worker_with_the_fewest() {
    let server = Server::start(Options {
        workers: 3,
        cpus: vec![0],
        ..options()
    });
    let mut clients = Vec::new();
    for _ in 0..9 {
        let client = server.client().await;
        assert_eq!(client.call(PREDICT, b"hello").await.unwrap(), "hello");
        clients.push(client);
    }
    let loads = server.transport.loads();
    assert!(loads.iter().all(|load| load.connections == 3), "{loads:?}");
    assert!(loads.iter().all(|load| load.busy_ns > 0), "{loads:?}");
}

#[tokio::test]
async fn a_stuck_worker_is_not_alive() {
    let server = Server::start(options());
    assert!(server.transport.is_alive(BOUND));
    let mut call = server.client().await.open(PREDICT, &[]).await;
    call.send(framed(b"block"), true);
    until(|| server.seen.answered.load(Ordering::SeqCst) == 1).await;
    assert!(!server.transport.is_alive(Duration::from_millis(20)));
    server.seen.gate.send_replace(true);
    assert_eq!(call.message().await.unwrap(), "block");
    assert!(server.transport.is_alive(BOUND));
}

#[tokio::test]
async fn a_worker_that_dies_takes_the_transport_down() {
    let (listener, address) = listening();
    let (transport, _) = start_with(
        vec![listener],
        Options {
            workers: 2,
            ..options()
        },
        |index| {
            assert!(index != 0, "no service");
        },
    );
    until(|| !transport.is_alive(BOUND)).await;
    transport.set_ready(true);
    // The other worker still tells, to all who come.
    for _ in 0..3 {
        let client = Client::over(tokio::net::TcpStream::connect(address).await.unwrap()).await;
        let ready = client
            .call("/inference.GRPCInferenceService/ServerReady", b"")
            .await
            .unwrap();
        assert!(!ServerReadyResponse::decode(ready).unwrap().ready);
    }
    transport.stop(Duration::ZERO);
}
