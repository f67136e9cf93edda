//! The data plane of tickserve: it executes a plan that the control plane made. There is no Python in it.
//!
//! A request goes `transport` (bytes over HTTP/2) -> `service` (the seam) -> `pipeline` (admit, decode, route, check,
//! run, check, encode, record). Everything that a request reads is in one `plan` that is swapped with a pointer store.

pub mod call;
pub mod plan;
pub mod refusal;
pub mod service;

/// Messages of protos/, compiled at build time.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}
