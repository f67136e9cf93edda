//! One version that is prepared: what it is, and the sessions that it shares with every version of its digest.

use std::sync::Arc;

use crate::decode::Schema;
use crate::loaded::Loaded;
use crate::plan::VersionPlan;
use crate::reaper::Retired;
use crate::rules::{InputChecks, OutputChecks};

/// A version that may answer.
#[derive(Debug)]
pub struct Runtime {
    /// As the control plane said it.
    pub version: Arc<VersionPlan>,
    /// What requests are held against.
    pub schema: Schema,
    /// What their values must be.
    pub input_checks: InputChecks,
    /// What the answers to them must be.
    pub output_checks: OutputChecks,
    /// Its sessions.
    pub loaded: Arc<Loaded>,
}

impl Runtime {
    /// Compiles what requests need of a version.
    pub fn new(version: VersionPlan, loaded: Arc<Loaded>) -> Self {
        let version = Arc::new(version);
        Self {
            schema: Schema::new(Arc::clone(&version)),
            input_checks: InputChecks::new(Arc::clone(&version)),
            output_checks: OutputChecks::new(Arc::clone(&version)),
            version,
            loaded,
        }
    }
}

impl Retired for Runtime {
    /// The sessions are retired apart.
    fn resident_bytes(&self) -> u64 {
        0
    }
}
