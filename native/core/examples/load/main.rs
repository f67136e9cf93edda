//! A load generator for gRPC servers: open loop at a fixed rate, closed loop, one pipelined stream, idle connections.
//!
//! It knows no messages: `--message` is a file with one encoded request, which is sent again and again, and what became
//! of each is written to `--records` as four little-endian u64: when it was meant to be sent, when it was, when its
//! answer was whole (nanoseconds since the start), and which outcome of the list in the summary it had.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client;
mod options;
mod records;

use std::io::Read;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::Connection;
use options::{Mode, Options};
use records::Records;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, yield_now};

/// How long outstanding answers are waited for at the end.
const DRAIN: Duration = Duration::from_secs(10);

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let records = Rc::new(Records::new());
        let connections = connect(&options).await;
        match options.mode {
            Mode::Open => open(&options, &connections, &records).await,
            Mode::Closed => closed(&options, &connections, &records).await,
            Mode::Stream => stream(&options, &connections[0], &records).await,
            Mode::Idle => idle(&connections, &records).await,
        }
        println!("{}", records.write(&options.records));
    });
}

async fn connect(options: &Options) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(Connection::open(options).await);
    }
    connections
}

/// Sends at the rate, whatever becomes of the answers. It spins, so that it is late by microseconds: give it a CPU.
async fn open(options: &Options, connections: &[Connection], records: &Rc<Records>) {
    let interval_ns = 1e9 / options.rate;
    let total = (options.seconds.as_secs_f64() * options.rate) as u64;
    let done = Rc::new(Semaphore::new(0));
    for number in 0..total {
        let intended = Duration::from_nanos((number as f64 * interval_ns) as u64);
        while records.elapsed() < intended {
            yield_now().await;
        }
        let connection = connections[number as usize % connections.len()].clone();
        let (records, done) = (Rc::clone(records), Rc::clone(&done));
        tokio::task::spawn_local(async move {
            connection.call(&records, Some(intended)).await;
            done.add_permits(1);
        });
    }
    let all = u32::try_from(total).unwrap();
    let _given_up = tokio::time::timeout(DRAIN, done.acquire_many(all)).await;
}

/// Keeps requests in flight, each sent when one was answered.
async fn closed(options: &Options, connections: &[Connection], records: &Rc<Records>) {
    let until = Instant::now() + options.seconds;
    let calls = (0..options.in_flight).map(|number| {
        let connection = connections[number % connections.len()].clone();
        let records = Rc::clone(records);
        tokio::task::spawn_local(async move {
            while Instant::now() < until {
                connection.call(&records, None).await;
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

/// Keeps messages of one stream in flight.
async fn stream(options: &Options, connection: &Connection, records: &Rc<Records>) {
    connection
        .stream(records, options.in_flight, Instant::now() + options.seconds)
        .await;
}

/// One request on each connection; then holds all of them, silent, until its input ends.
async fn idle(connections: &[Connection], records: &Rc<Records>) {
    for connection in connections {
        connection.call(records, None).await;
    }
    println!("idle");
    let (sender, mut ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _count = std::io::stdin().read(&mut [0]);
        sender.send(()).ok();
    });
    // The connections' own tasks go on and answer pings.
    let _ended = (&mut ended).await;
}
