//! What all threads of the data plane share: the installed plan, the bounds, the pool and the counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::counters::Refusals;
use crate::faults::Faults;
use crate::installed::Installed;
use crate::pool::Pool;
use crate::reflection::Reflection;
use crate::shadow::Shadows;
use crate::texts::Texts;

/// What a stream may put around an answer.
pub const FRAME_BYTES: usize = 32;

/// How much is accepted and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineBounds {
    /// Requests accepted and unanswered.
    pub max_in_flight: usize,
    /// The same of one client, where clients are bounded.
    pub max_in_flight_per_client: usize,
    /// Of an encoded answer: what clients accept of a message, less what a stream puts around it.
    pub max_answer_bytes: usize,
    /// Copies of requests that wait for their shadow, and bytes of their messages.
    pub max_shadow_queue: usize,
    /// See `max_shadow_queue`.
    pub max_shadow_bytes: usize,
}

/// Shared by workers, threads of the pool and the control plane. Nothing in it waits.
#[derive(Debug)]
pub struct Shared {
    /// The texts of refusals.
    pub texts: Arc<Texts>,
    /// How much is accepted and sent.
    pub bounds: PipelineBounds,
    /// The plan that requests read.
    pub installed: ArcSwap<Installed>,
    /// Requests accepted and unanswered.
    pub in_flight: AtomicUsize,
    /// Threads for long requests.
    pub pool: Pool,
    /// Unexpected failures.
    pub faults: Arc<Faults>,
    /// Refusals that reached no version, by worker.
    pub refusals: Box<[Refusals]>,
    /// Encoded ServerMetadataResponse.
    pub server_metadata: Bytes,
    /// What the server tells of its own interface.
    pub reflection: Reflection,
    /// What runs copies of requests.
    pub shadows: Shadows,
    pub(crate) draining: AtomicBool,
}

impl Shared {
    /// Whether new requests are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
