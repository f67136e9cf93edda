//! What one listener grants its connections: the values of tickserve/listening/connections.py.

use std::time::Duration;

/// Bounds of connections. A zero turns `keepalive`, `idle` and `age` off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Open connections of one listener; more are closed at once.
    pub max_connections: usize,
    /// Concurrent calls of one connection.
    pub max_streams: u32,
    /// For TLS, preface and first SETTINGS together; and for every 4 KB of a message that has begun.
    pub handshake_timeout: Duration,
    /// How long a connection may be silent before the server pings it.
    pub keepalive: Duration,
    /// How long the answer to that ping may take.
    pub keepalive_timeout: Duration,
    /// How often a client may ping while it is told nothing.
    pub client_ping_interval: Duration,
    /// How long a connection may be without a call.
    pub idle: Duration,
    /// How old a connection may get, give or take a tenth.
    pub age: Duration,
    /// How long its calls may take to end after that.
    pub age_grace: Duration,
    /// Size of one message, in either direction, uncompressed.
    pub max_message_bytes: usize,
    /// What all clients together make the server hold: messages that are not whole, and answers that are not read.
    pub max_held_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_streams: 128,
            handshake_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            client_ping_interval: Duration::from_secs(5),
            idle: Duration::ZERO,
            age: Duration::ZERO,
            age_grace: Duration::from_secs(10),
            max_message_bytes: 4 << 20,
            max_held_bytes: 256 << 20,
        }
    }
}
