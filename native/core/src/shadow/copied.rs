//! Which requests are copied to a shadow, and what is handed over of one.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::drawn::Drawn;
use crate::installed::{Installed, Place, Serving};
use crate::plan;
use crate::routing;
use crate::service::Protocol;
use crate::tap::Columns;

/// A shadow under one plan: the version, and whose requests it gets.
#[derive(Debug)]
pub struct Shadowing {
    /// The version as it runs copies.
    pub serving: Serving,
    fraction_bp: u32,
    salt: Bytes,
    /// The only version whose requests are copied; any but the shadow itself where there is none.
    of: Option<Place>,
}

/// A request that was answered, for its shadow to run.
#[derive(Debug)]
pub struct Copied {
    /// The plan that it was answered under; its shadow is that plan's.
    pub installed: Arc<Installed>,
    /// The version that answered.
    pub place: Place,
    /// How the message is to be read.
    pub protocol: Protocol,
    /// As it came.
    pub message: Bytes,
    /// Its id where it brought none.
    pub drawn: Drawn,
    /// When it was taken up.
    pub started: Instant,
    /// What its event time was held against.
    pub checked_unix_ns: i64,
    /// As it was routed.
    pub key_bucket: u8,
    /// What the answer is counted as beside its shadow's, and in which block.
    pub compared: Option<(u32, Columns)>,
}

/// A message of up to this size came in a buffer of its connection, with others: a copy is smaller than what it would
/// hold, and the connection goes on with its buffer.
const SMALL_BYTES: usize = 16 << 10;

impl Shadowing {
    /// Of a version that runs as a shadow; `of` is the only one whose requests it gets.
    pub fn new(serving: Serving, plan: &plan::Shadow, of: Option<Place>) -> Self {
        Self {
            serving,
            fraction_bp: plan.fraction_bp,
            salt: plan.salt.clone(),
            of,
        }
    }

    /// Whether a request that the split gave to a version is copied.
    pub fn samples(&self, answered: &Serving, request_id: &str) -> bool {
        let is_of = match self.of {
            Some(of) => of == answered.place,
            None => true,
        };
        is_of
            && answered.place != self.serving.place
            && routing::is_sampled(&self.salt, request_id.as_bytes(), self.fraction_bp)
    }

    /// What a run's processor time is held against, for its counters; None where nothing is.
    pub fn edge_ns(&self) -> Option<u64> {
        let edge_ns = self.serving.tapped?.latency_edge_ns;
        (edge_ns != 0).then_some(edge_ns)
    }
}

impl Copied {
    /// What it keeps in memory.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.message.len()
    }

    /// Its shadow.
    pub(super) fn shadow(&self) -> Option<&Shadowing> {
        self.installed.shadow_at(self.place)
    }

    /// Counts that nothing comes of it.
    pub fn count_dropped(&self) {
        if let Some(shadow) = self.shadow() {
            shadow.serving.tallies.count_dropped();
        }
    }

    /// Lets go of what others use.
    pub(super) fn apart(mut self) -> Self {
        if self.message.len() <= SMALL_BYTES {
            self.message = Bytes::copy_from_slice(&self.message);
        }
        self
    }
}
