//! Rates, requests in flight, ways to travel: what is sent, and how it is counted.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tickserve_core::load::{self, Control, Options, Pacing, Report, Travel};
use tickserve_core::transport::Listener;
use tickserve_core::wire::inference::ModelInferRequest;
use tickserve_core::wire::tickserve::v1::PredictRequest;

use crate::support::{INFER_STREAM, PREDICT_STREAM, STALL, Server, options, outcomes};

fn run(options: &Options) -> Report {
    load::run(options, &Control::default(), || ()).unwrap()
}

/// The message of each way to travel, whose model says what becomes of it.
fn streaming(server: &Server, travel: Travel, model: &str) -> Options {
    let (path, message) = if travel == Travel::PredictStream {
        let request = PredictRequest {
            model: model.into(),
            ..Default::default()
        };
        (PREDICT_STREAM, request.encode_to_vec())
    } else {
        let request = ModelInferRequest {
            model_name: model.into(),
            ..Default::default()
        };
        (INFER_STREAM, request.encode_to_vec())
    };
    Options {
        path: path.to_owned(),
        travel,
        ..options(&server.address, message)
    }
}

#[test]
fn an_open_loop_sends_exactly_what_the_rate_says() {
    let server = Server::start();
    for travel in [Travel::Unary, Travel::PredictStream, Travel::InferStream] {
        let base = match travel {
            Travel::Unary => options(&server.address, Bytes::from_static(b"x")),
            _ => streaming(&server, travel, "m"),
        };
        let before = server.seen();
        let report = run(&Options {
            pacing: Pacing::Open {
                rate: 1000.0,
                max_in_flight: 10_000,
            },
            connections: 2,
            warmup: Duration::from_millis(200),
            ..base
        });
        assert_eq!(outcomes(&report), [("OK", 500)], "{travel:?}");
        assert_eq!(
            (report.warmup_outcomes[0], report.missed, server.seen() - before),
            (200, 0, 700)
        );
        assert_eq!(
            (
                report.latency.count(),
                report.lateness.count(),
                report.times.len()
            ),
            (500, 500, 700)
        );
        assert_eq!(report.measured, Duration::from_millis(500));
        // Each request counts from when it was meant to be sent, and in this order.
        let mut intended: Vec<u64> = report.times.iter().map(|times| times[0]).collect();
        intended.sort_unstable();
        assert_eq!(
            intended,
            (0..700).map(|number| number * 1_000_000).collect::<Vec<_>>()
        );
        for [intended, began, sent, done, outcome] in &report.times {
            assert!(intended <= began && began <= sent && sent <= done && *outcome == 0);
        }
    }
}

#[test]
fn an_open_loop_shows_a_stall_that_a_closed_loop_hides() {
    let slow = |pacing| {
        let server = Server::start();
        let report = run(&Options {
            pacing,
            ..options(&server.address, Bytes::from_static(b"stall"))
        });
        let slow_ns = STALL.1.as_nanos() as u64 / 2;
        let times = report.times.iter().filter(|times| times[3] - times[0] > slow_ns);
        (times.count(), report)
    };
    let (in_closed, _) = slow(Pacing::Closed { in_flight: 1 });
    // Those that were meant to be sent in the first half of the stall waited for longer than the other half.
    let (in_open, report) = slow(Pacing::Open {
        rate: 1000.0,
        max_in_flight: 10_000,
    });
    assert!(in_closed >= 1);
    assert!(in_open >= STALL.1.as_millis() as usize / 2, "{in_open} slow ones");
    assert!(report.latency.value_ns(0.9) > report.service_time.value_ns(0.1));
}

#[test]
fn a_bound_on_what_is_in_flight_leaves_requests_out_and_says_how_many() {
    let server = Server::start();
    let report = run(&Options {
        pacing: Pacing::Open {
            rate: 1000.0,
            max_in_flight: 10,
        },
        ..options(&server.address, Bytes::from_static(b"stall"))
    });
    assert!(report.missed > 0);
    assert_eq!(outcomes(&report), [("OK", 500 - report.missed)]);
    assert_eq!(server.seen() as u64, 500 - report.missed);
}

#[test]
fn a_closed_loop_keeps_so_many_in_flight() {
    let server = Server::start();
    for travel in [Travel::Unary, Travel::PredictStream, Travel::InferStream] {
        let base = match travel {
            Travel::Unary => options(&server.address, Bytes::from_static(b"x")),
            _ => streaming(&server, travel, "m"),
        };
        let report = run(&Options {
            pacing: Pacing::Closed { in_flight: 8 },
            connections: 2,
            ..base
        });
        let answered = report.latency.count();
        assert_eq!(outcomes(&report), [("OK", answered)], "{travel:?}");
        assert!(answered > 8 && report.answered_in_time <= answered && report.missed == 0);
        // At any time at most 8 are begun and not over.
        let mut events: Vec<(u64, i32)> = Vec::new();
        for [_, began, _, done, _] in &report.times {
            events.extend([(*began, 1), (*done, -1)]);
        }
        events.sort_unstable();
        let mut in_flight = 0;
        for (_, change) in events {
            in_flight += change;
            assert!((0..=8).contains(&in_flight));
        }
        assert!((1..=8).contains(&report.most_in_flight) || travel != Travel::Unary);
    }
}

#[test]
fn a_refusal_is_counted_by_status_and_reason_and_has_no_latency() {
    let server = Server::start();
    let refused = Bytes::from_static(b"refuse");
    let mixed = Options {
        messages: vec![Bytes::from_static(b"x"), refused],
        pacing: Pacing::Open {
            rate: 200.0,
            max_in_flight: 100,
        },
        ..options(&server.address, "")
    };
    let report = run(&mixed);
    assert_eq!(
        outcomes(&report),
        [("OK", 50), ("RESOURCE_EXHAUSTED OVERLOADED", 50)]
    );
    assert_eq!((report.latency.count(), report.broken), (50, 0));
    let by_interval = report
        .intervals
        .iter()
        .fold((0, 0), |(answered, failed), interval| {
            (answered + interval.answered, failed + interval.failed)
        });
    assert_eq!(by_interval, (50, 50));
    for (travel, name) in [
        (Travel::PredictStream, "FAILED_PRECONDITION HALTED"),
        (Travel::InferStream, "refused on the stream: no"),
    ] {
        let report = run(&streaming(&server, travel, "refuse"));
        let [(outcome, count)] = outcomes(&report)[..] else {
            panic!("{:?}", report.outcomes);
        };
        assert_eq!(outcome, name);
        assert!(count > 0 && report.latency.count() == 0);
    }
}

#[test]
fn one_call_brings_its_answer_or_the_words_of_the_server() {
    let server = Server::start();
    let call = |message: &'static [u8]| load::call(&options(&server.address, Bytes::from_static(message)));
    let (outcome, _, body) = call(b"hello").unwrap();
    assert_eq!((outcome.to_string().as_str(), &body[..]), ("OK", &b"hello"[..]));
    let (outcome, said, body) = call(b"refuse").unwrap();
    assert_eq!(outcome.to_string(), "RESOURCE_EXHAUSTED OVERLOADED");
    assert_eq!((said.as_str(), body.len()), ("as asked", 0));
}

#[test]
fn a_run_ends_when_it_is_stopped_and_keeps_its_figures() {
    let server = Server::start();
    let endless = Options {
        duration: Duration::from_secs(3600),
        ..options(&server.address, Bytes::from_static(b"x"))
    };
    for pacing in [
        Pacing::Closed { in_flight: 2 },
        Pacing::Open {
            rate: 500.0,
            max_in_flight: 100,
        },
        Pacing::Open {
            rate: 0.01,
            max_in_flight: 100,
        },
    ] {
        let before = server.seen();
        let control = Control::default();
        let report = std::thread::scope(|threads| {
            let options = Options {
                pacing,
                ..endless.clone()
            };
            let control = &control;
            let running = threads.spawn(move || load::run(&options, control, || ()).unwrap());
            while server.seen() == before {
                std::thread::yield_now();
            }
            control.stop();
            running.join().unwrap()
        });
        assert!(report.is_stopped && report.measured < Duration::from_secs(3600));
        assert_eq!(outcomes(&report), [("OK", (server.seen() - before) as u64)]);
    }
}

#[test]
fn idle_connections_have_one_answer_each_and_stay() {
    let server = Server::start();
    let control = Control::default();
    let idle = Options {
        pacing: Pacing::Idle,
        connections: 20,
        duration: Duration::ZERO,
        ..options(&server.address, Bytes::from_static(b"x"))
    };
    let report = load::run(&idle, &control, || control.stop()).unwrap();
    assert_eq!((outcomes(&report), server.seen()), (vec![("OK", 20)], 20));
}

#[test]
fn a_unix_socket_is_as_good() {
    let folder = std::env::temp_dir().join(format!("tickserve-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("s.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = Server::on(Listener::Unix(listener), load::Address::Unix(path));
    let report = run(&options(&server.address, Bytes::from_static(b"x")));
    assert!(report.latency.count() > 0);
    assert_eq!(outcomes(&report).len(), 1);
    drop(server);
    std::fs::remove_dir_all(folder).unwrap();
}
