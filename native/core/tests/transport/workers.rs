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
async fn of_workers_with_as_many_the_least_busy_gets_the_next() {
    let server = Server::start(Options {
        workers: 2,
        ..options()
    });
    let counts = || {
        let mut counts: Vec<_> = server
            .transport
            .loads()
            .iter()
            .map(|load| load.connections)
            .collect();
        counts.sort();
        counts
    };
    let (busy, calm) = (server.client().await, server.client().await);
    until(|| counts() == [1, 1]).await;
    assert_eq!(busy.call(PREDICT, b"spin:500000").await.unwrap(), "spin:500000");
    assert_eq!(calm.call(PREDICT, b"hello").await.unwrap(), "hello");
    // Counted at the end of the turn, which may be after the answer.
    until(|| {
        server
            .transport
            .loads()
            .iter()
            .any(|load| load.busy_ns >= 500_000_000)
    })
    .await;
    let before = server.transport.loads();
    let _third = server.client().await;
    until(|| counts() == [1, 2]).await;
    let busiest = before
        .iter()
        .enumerate()
        .max_by_key(|(_, load)| load.busy_ns)
        .unwrap()
        .0;
    assert_eq!(server.transport.loads()[busiest].connections, 1);
    // Fewer count for more than less busy.
    let _fourth = server.client().await;
    until(|| counts().iter().sum::<usize>() == 4).await;
    assert_eq!(counts(), [2, 2]);
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
