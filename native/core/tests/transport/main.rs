//! The transport over real sockets: HTTP/2 clients and raw bytes against a service that echoes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod drain;
mod health;
mod hostile;
mod lifetime;
mod streams;
mod support;
mod tls;
mod workers;
