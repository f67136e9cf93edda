//! A gRPC client over one HTTP/2 connection, made for a thread that waits for its answer.
//!
//! There is no runtime and no thread of its own. Whoever waits drives the connection: `link` lets one waiting thread
//! read for all (the leader), while each writes for itself, so that a lone caller hands over to nobody. `dial` makes
//! connections, `Client` keeps one and replaces it when it ends, `call` is one unary call or stream on it.

mod call;
mod dial;
mod fork;
mod held;
mod link;
pub mod prediction;
mod status;
#[cfg(test)]
mod tests;
mod timeout;
mod tls;
mod watch;
mod wire;

pub use call::{Answer, Call, framed};
pub use dial::Target;
pub use fork::OfProcess;
pub use held::{Client, Method};
pub use link::{Check, Interrupted, Link};
pub use status::{Status, code};
pub use tls::{TlsConfig, TlsError, client_config};
