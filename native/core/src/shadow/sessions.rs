//! Sessions of the thread of shadows: one for each package that some shadow is, made when a plan names it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::faults::Faults;
use crate::installed::Installed;
use crate::prepare;
use crate::reaper::{Retired, Retiring};
use crate::runtime::Runtime;
use crate::session::{Library, Session};

/// By digest. Whatever is not named any more is retired: the thread is of a priority that should not free much.
#[derive(Debug)]
pub(super) struct Sessions {
    library: &'static Library,
    retiring: Retiring,
    made: BTreeMap<Bytes, (Session, u64)>,
}

/// A session on its way to the reaper.
struct Freed {
    _session: Mutex<Session>,
    resident_bytes: u64,
}

impl Retired for Freed {
    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }
}

impl Sessions {
    pub(super) fn new(library: &'static Library, retiring: Retiring) -> Self {
        Self {
            library,
            retiring,
            made: BTreeMap::new(),
        }
    }

    /// Makes what the plan's shadows need, gives up the rest, and says whether there are any. Slow. What cannot be made
    /// is in the faults, and is tried again with the next plan.
    pub(super) fn fit(&mut self, installed: &Installed, faults: &Faults) -> bool {
        let shadows = installed.models.iter().filter_map(|model| model.shadow.as_ref());
        let runtimes: Vec<_> = shadows.map(|shadow| &shadow.serving.runtime).collect();
        let needed: BTreeSet<_> = runtimes.iter().map(|runtime| &runtime.version.digest).collect();
        let unneeded: Vec<_> = self
            .made
            .extract_if(.., |digest, _| !needed.contains(digest))
            .collect();
        for (_, made) in unneeded {
            self.retire(made);
        }
        for runtime in &runtimes {
            self.make(runtime, faults);
        }
        !runtimes.is_empty()
    }

    /// The session of a version; None where it could not be made.
    pub(super) fn of(&mut self, runtime: &Runtime) -> Option<&mut Session> {
        self.made
            .get_mut(&runtime.version.digest)
            .map(|(session, _)| session)
    }

    /// Gives up all.
    pub(super) fn clear(&mut self) {
        for made in std::mem::take(&mut self.made).into_values() {
            self.retire(made);
        }
    }

    fn make(&mut self, runtime: &Runtime, faults: &Faults) {
        let version = &runtime.version;
        if self.made.contains_key(&version.digest) {
            return;
        }
        match prepare::one_session(self.library, version) {
            Ok(session) => {
                let bytes = runtime.loaded.bytes_of_one();
                self.made.insert(version.digest.clone(), (session, bytes));
            }
            Err(error) => {
                let (model, number) = (&version.model, &version.version);
                faults.keep(format!("{model} version {number} as a shadow: {error}"));
            }
        }
    }

    fn retire(&self, (session, resident_bytes): (Session, u64)) {
        self.retiring.retire(Arc::new(Freed {
            _session: Mutex::new(session),
            resident_bytes,
        }));
    }
}
