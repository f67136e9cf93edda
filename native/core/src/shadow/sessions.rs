//! Sessions of the thread of shadows: one for each package that some shadow is, made when a plan names it, and kept for
//! as long as copies of that plan wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::loader::Loader;
use crate::faults::Faults;
use crate::installed::Installed;
use crate::reaper::{Retired, Retiring};
use crate::runtime::Runtime;
use crate::session::Session;

/// By digest. Whatever is not named any more is retired: the thread is of a priority that should not free much.
#[derive(Debug)]
pub(super) struct Sessions {
    loader: Loader,
    retiring: Retiring,
    made: BTreeMap<Bytes, (Session, u64)>,
    /// What could not be made; tried again with the next plan.
    failed: BTreeSet<Bytes>,
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
    pub(super) fn new(loader: Loader, retiring: Retiring) -> Self {
        Self {
            loader,
            retiring,
            made: BTreeMap::new(),
            failed: BTreeSet::new(),
        }
    }

    /// Makes what the shadows of a new plan need, and says whether there are any. Slow. What cannot be made is in the
    /// faults.
    pub(super) fn add(&mut self, installed: &Installed, faults: &Faults) -> bool {
        self.failed.clear();
        let mut has_shadows = false;
        for runtime in runtimes(installed) {
            has_shadows = true;
            self.make(runtime, faults);
        }
        has_shadows
    }

    /// Gives up what the shadows of the plan do not need.
    pub(super) fn keep_only(&mut self, installed: &Installed) {
        let needed: BTreeSet<_> = runtimes(installed)
            .map(|runtime| &runtime.version.digest)
            .collect();
        let is_unneeded = |digest: &Bytes, _: &mut _| !needed.contains(digest);
        let unneeded: Vec<_> = self.made.extract_if(.., is_unneeded).collect();
        for (_, made) in unneeded {
            self.retire(made);
        }
    }

    /// The session of a version, made where it is not there any more; None where it could not be made.
    pub(super) fn of(&mut self, runtime: &Runtime, faults: &Faults) -> Option<&mut Session> {
        self.make(runtime, faults);
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
        if self.made.contains_key(&version.digest) || self.failed.contains(&version.digest) {
            return;
        }
        match self.loader.load(version) {
            Ok(session) => {
                let bytes = runtime.loaded.bytes_of_one();
                self.made.insert(version.digest.clone(), (session, bytes));
            }
            Err(error) => {
                let (model, number) = (&version.model, &version.version);
                faults.tell(format!("{model} version {number} as a shadow: {error}"));
                self.failed.insert(version.digest.clone());
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

/// Of every shadow of a plan.
fn runtimes(installed: &Installed) -> impl Iterator<Item = &Runtime> {
    let shadows = installed.models.iter().filter_map(|model| model.shadow.as_ref());
    shadows.map(|shadow| &*shadow.serving.runtime)
}
