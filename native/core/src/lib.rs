//! The data plane of tickserve: it executes a plan that the control plane made. There is no Python in it.
//!
//! A request goes `transport` (bytes over HTTP/2) -> `service` (the seam) -> `pipeline` (admit, decode, route, check,
//! run, check, encode, record). Everything that a request reads is in one `plan` that is swapped with a pointer store.

// So that tests inside share their support with those outside.
#[cfg(test)]
extern crate self as tickserve_core;

pub mod background;
pub mod call;
pub mod client;
pub mod clock;
pub mod counters;
mod decide;
pub mod decode;
pub mod describe;
pub mod drawn;
pub mod encode;
pub mod engine;
pub mod fallback;
pub mod faults;
mod features;
pub mod histogram;
pub mod in_flight;
pub mod installed;
pub mod job;
pub mod load;
pub mod loaded;
pub mod numbers;
pub mod pipeline;
pub mod plan;
pub mod pool;
pub mod prepare;
pub mod reaper;
pub mod reflection;
pub mod refusal;
pub mod refuse;
pub mod routing;
pub mod rules;
pub mod runtime;
pub mod seat;
pub mod service;
pub mod session;
pub mod shadow;
pub mod shared;
pub mod tallies;
pub mod tap;
pub mod texts;
pub mod transport;

/// Messages of protos/, compiled at build time.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}
