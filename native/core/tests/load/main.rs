//! The load generator against the transport of this crate, and against servers that misbehave.

#![allow(clippy::unwrap_used, missing_docs)]

mod faults;
mod loops;
mod support;
