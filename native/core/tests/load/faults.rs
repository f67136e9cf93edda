//! Servers that are away, silent, foreign, or die in the middle: every request has an outcome, and the run ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use tickserve_core::load::{self, Address, Control, Options, Pacing, Report};

use crate::support::{PREDICT_STREAM, Server, address, options, outcomes};

fn run(options: &Options) -> Report {
    load::run(options, &Control::default(), || ()).unwrap()
}

/// Passes bytes on, until so many have come from the server on a connection; the first connection only.
fn cut_after(server: &Address, bytes: usize) -> Address {
    let Address::Tcp(host, port) = server.clone() else {
        panic!("TCP is expected")
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = address(&listener);
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect((host.as_str(), port))) else {
                return;
            };
            let (to_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || pass(client, to_server, usize::MAX));
            std::thread::spawn(move || pass(server, to_client, if number == 0 { bytes } else { usize::MAX }));
        }
    });
    proxy
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut left: usize) {
    let mut read = [0; 4096];
    while left > 0 {
        let room = left.min(read.len());
        match from.read(&mut read[..room]) {
            Ok(size) if size > 0 && to.write_all(&read[..size]).is_ok() => left -= size,
            _ => break,
        }
    }
    let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn nobody_at_the_address_is_said_before_anything_is_sent() {
    let gone = address(&TcpListener::bind("127.0.0.1:0").unwrap());
    let error = load::run(&options(&gone, "x"), &Control::default(), || panic!("ready")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "connection refused or failed: connection refused"
    );
    assert!(load::call(&options(&gone, "x")).is_err());
    let nowhere = Address::Unix("/nowhere/at.sock".into());
    assert!(load::call(&options(&nowhere, "x")).is_err());
}

#[test]
fn a_server_that_never_answers_costs_each_request_its_deadline() {
    // The kernel takes connections that nobody accepts.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let report = run(&Options {
        deadline: Duration::from_millis(50),
        pacing: Pacing::Open {
            rate: 100.0,
            max_in_flight: 100,
        },
        ..options(&address(&silent), "x")
    });
    assert_eq!(outcomes(&report), [("no answer within the deadline", 50)]);
    assert_eq!((report.broken, report.latency.count()), (50, 0));
    drop(silent);
}

#[test]
fn a_second_stop_gives_up_what_is_unanswered() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = Control::default();
    let waiting = Options {
        deadline: Duration::from_secs(3600),
        pacing: Pacing::Closed { in_flight: 3 },
        ..options(&address(&silent), "x")
    };
    let report = load::run(&waiting, &control, || {
        control.stop();
        control.stop();
    });
    let report = report.unwrap();
    let given_up: u64 = report.outcomes.iter().map(|(_, count)| count).sum();
    assert!(given_up <= 3);
    assert!(
        outcomes(&report)
            .iter()
            .all(|(name, _)| *name == "unanswered when the run was ended")
    );
}

#[test]
fn a_connection_that_is_cut_costs_its_requests_and_no_others() {
    let server = Server::start();
    for bytes in [100, 1000, 3000] {
        let report = run(&Options {
            pacing: Pacing::Open {
                rate: 400.0,
                max_in_flight: 1000,
            },
            ..options(&cut_after(&server.address, bytes), "hello")
        });
        let found = outcomes(&report);
        let total: u64 = found.iter().map(|(_, count)| count).sum();
        assert_eq!((found[0].0, total), ("OK", 200), "{found:?}");
        assert!(
            found.len() > 1 && found[1..].iter().all(|(name, _)| name.starts_with("connection")),
            "{found:?}"
        );
        assert!(report.reconnections == 1 && report.broken + report.latency.count() == 200);
        assert!(report.latency.count() > report.broken);
    }
}

#[test]
fn a_server_that_goes_away_is_counted_to_the_end_and_not_stormed() {
    let server = Server::start();
    let report = std::thread::scope(|threads| {
        let closed = Options {
            pacing: Pacing::Closed { in_flight: 4 },
            duration: Duration::from_millis(600),
            ..options(&server.address, "x")
        };
        let running = threads.spawn(move || run(&closed));
        while server.seen() < 20 {
            std::thread::yield_now();
        }
        server.stop();
        running.join().unwrap()
    });
    let found = outcomes(&report);
    let answered = found[0].1;
    let failed: u64 = found[1..].iter().map(|(_, count)| count).sum();
    assert!(answered >= 20 && failed > 0, "{found:?}");
    assert!(
        found
            .iter()
            .any(|(name, _)| name.starts_with("connection refused")),
        "{found:?}"
    );
    // Four tasks with a pause of 10 ms each.
    assert!(failed <= 4 * 70, "{found:?}");
}

#[test]
fn what_is_no_grpc_is_called_so() {
    let server = Server::start();
    let unknown = Options {
        path: "/no.Service/Method".to_owned(),
        ..options(&server.address, "x")
    };
    let (outcome, _, _) = load::call(&unknown).unwrap();
    assert_eq!(outcome.to_string(), "UNIMPLEMENTED");

    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let web_address = address(&web);
    std::thread::spawn(move || {
        for client in web.incoming() {
            let mut client = client.unwrap();
            let _read = client.read(&mut [0; 1024]);
            let _written = client.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let (outcome, _, _) = load::call(&options(&web_address, "x")).unwrap();
    assert!(matches!(outcome, load::Outcome::Broken(_)), "{outcome}");
}

#[test]
fn a_stream_of_a_server_that_refuses_streams_is_an_outcome_too() {
    let server = Server::start();
    // Unary framing of another message: the scripted server panics at it, and the call ends with a status.
    let report = run(&Options {
        path: PREDICT_STREAM.to_owned(),
        travel: load::Travel::InferStream,
        deadline: Duration::from_millis(200),
        ..options(&server.address, Bytes::from_static(b"\x1a\x00"))
    });
    assert!(report.latency.count() == 0);
    assert!(
        outcomes(&report).iter().all(|(name, _)| *name != "OK"),
        "{:?}",
        report.outcomes
    );
    assert!(!outcomes(&report).is_empty());
}
