//! Values from the bytes of a request to the bytes of its answer, without transport and model.

// Helpers are tests too, but clippy does not know them as such.
#![allow(clippy::unwrap_used)]

mod decode;
mod encode;
mod hostile;
mod json;
mod reflection;
mod rules;
mod support;
mod table;
