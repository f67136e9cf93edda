//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

const USAGE: &str = "usage: load open|closed|stream|idle --address HOST:PORT --path /SERVICE/METHOD --message FILE \
                     --records FILE [--seconds S] [--rate PER_S] [--connections N] [--in-flight N] [--timeout-us N]";

#[derive(Clone, Copy, Debug)]
pub enum Mode {
    Open,
    Closed,
    Stream,
    Idle,
}

#[derive(Debug)]
pub struct Options {
    pub mode: Mode,
    pub address: String,
    pub path: String,
    /// The message in its gRPC frame.
    pub frame: Bytes,
    pub records: PathBuf,
    pub seconds: Duration,
    /// Requests a second, of open loops.
    pub rate: f64,
    pub connections: usize,
    pub in_flight: usize,
    /// The deadline that is sent; 0 is none.
    pub timeout_us: u64,
}

impl Options {
    pub fn parse() -> Self {
        let mut words = std::env::args().skip(1);
        let mode = match words.next().as_deref() {
            Some("open") => Mode::Open,
            Some("closed") => Mode::Closed,
            Some("stream") => Mode::Stream,
            Some("idle") => Mode::Idle,
            _ => fail("no mode"),
        };
        let mut options = Self {
            mode,
            address: String::new(),
            path: String::new(),
            frame: Bytes::new(),
            records: PathBuf::new(),
            seconds: Duration::from_secs(1),
            rate: 1000.0,
            connections: 1,
            in_flight: 1,
            timeout_us: 0,
        };
        while let Some(name) = words.next() {
            let Some(value) = words.next() else {
                fail(&format!("{name} has no value"))
            };
            match name.as_str() {
                "--address" => options.address = value,
                "--path" => options.path = value,
                "--message" => options.frame = framed(&std::fs::read(&value).expect("the message's file")),
                "--records" => options.records = value.into(),
                "--seconds" => options.seconds = Duration::from_secs_f64(number(&name, &value)),
                "--rate" => options.rate = number(&name, &value),
                "--connections" => options.connections = number(&name, &value),
                "--in-flight" => options.in_flight = number(&name, &value),
                "--timeout-us" => options.timeout_us = number(&name, &value),
                _ => fail(&format!("{name} is no option")),
            }
        }
        if options.frame.is_empty()
            || options.rate <= 0.0
            || options.connections == 0
            || options.in_flight == 0
        {
            fail("a message, a rate, a connection and a request in flight are needed");
        }
        options
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a message below 4 GiB"));
    frame.extend_from_slice(message);
    frame.freeze()
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> T {
    value
        .parse()
        .unwrap_or_else(|_| fail(&format!("{name} is no number: {value}")))
}

fn fail(what: &str) -> ! {
    eprintln!("{what}\n{USAGE}");
    std::process::exit(2)
}
