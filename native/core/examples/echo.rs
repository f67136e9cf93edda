//! A transport over a service that answers each message with itself, to try clients against.
//!
//! `cargo run --example echo -- 127.0.0.1:8001 [WORKERS]`

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tickserve_core::refusal::{Reason, Refusal};
use tickserve_core::service::{Answering, Arrival, Describe, Protocol, Refused, Service};
use tickserve_core::transport::{Bounds, Listener, Options, Transport};

struct Echo;

impl Service for Echo {
    fn answer(&self, _protocol: Protocol, message: Bytes, _arrival: Arrival) -> Answering {
        Answering::Now(Ok(message))
    }

    fn describe(&self, _call: Describe, message: &[u8]) -> Result<Bytes, Refusal> {
        Ok(Bytes::copy_from_slice(message))
    }

    fn refuse(&self, refused: Refused<'_>) -> Refusal {
        refusal(14, Reason::Draining, &format!("{refused:?}"))
    }
}

fn refusal(code: i32, reason: Reason, message: &str) -> Refusal {
    Refusal {
        code,
        reason: Some(reason),
        message: message.to_owned(),
        field: String::new(),
        executed: false,
        request_id: String::new(),
    }
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let workers = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let options = Options {
        bounds: Bounds {
            max_message_bytes: 1 << 20,
            ..Bounds::default()
        },
        tls: None,
        workers,
        cpus: Vec::new(),
        bounds_clients: false,
        internal: refusal(13, Reason::Internal, "internal error"),
    };
    let listener = Listener::Tcp(std::net::TcpListener::bind(&address)?);
    let transport = Transport::start(vec![listener], options, |_| Rc::new(Echo))?;
    transport.set_ready(true);
    println!("serving on {address} until a line comes on stdin or it closes");
    std::io::stdin().read_line(&mut String::new())?;
    transport.stop(Duration::from_secs(2));
    println!("{:?}", transport.loads());
    Ok(())
}
