//! The tap: the bytes of the shared vectors, random records there and back, and what the engine records.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod engine;
mod fallback;
mod files;
mod owned;
mod random;
mod reader;
mod shadow;
mod vectors;
