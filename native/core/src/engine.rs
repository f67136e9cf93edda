//! The data plane as the control plane holds it: prepare, install, count, drain. Every method may be slow to its caller
//! and none of them to a request.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use thiserror::Error;

use crate::call::Tensor;
use crate::counters::{Counts, Identity, Refusals};
use crate::drawn::Draw;
use crate::faults::Faults;
use crate::installed::{Installed, NotPrepared};
use crate::loaded::{Figures, Loaded};
use crate::pipeline::Pipeline;
use crate::plan::{Plan, Role, VersionPlan};
use crate::pool::Pool;
use crate::prepare::{self, PrepareError, Seats};
use crate::reaper::Reaper;
use crate::reflection::Reflection;
use crate::refusal::Reason;
use crate::runtime::Runtime;
use crate::seat::{Room, Seat};
use crate::session::{Library, LibraryError};
use crate::shadow::Shadows;
use crate::shared::{PipelineBounds, Shared};
use crate::tallies::Ledger;
use crate::tap::{DamagedTap, Page, RingWriter, Tap};
use crate::texts::Texts;

/// What the data plane is made with.
#[derive(Debug)]
pub struct Settings {
    /// Threads that read sockets and run short requests.
    pub workers: usize,
    /// Threads that run long ones.
    pub pool_threads: usize,
    /// How much is accepted and sent.
    pub bounds: PipelineBounds,
    /// The texts of refusals.
    pub texts: Arc<Texts>,
    /// Encoded ServerMetadataResponse.
    pub server_metadata: Bytes,
    /// What the server tells of its own interface.
    pub reflection: Reflection,
}

/// Why there is no data plane.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is no ONNX Runtime.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The system gives no threads.
    #[error("cannot start threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// The data plane.
#[derive(Debug)]
pub struct Engine {
    library: &'static Library,
    seats: Seats,
    shared: Arc<Shared>,
    control: Mutex<Control>,
    reaper: Reaper,
}

/// What control calls change, one at a time; no request ever looks at it.
#[derive(Debug)]
struct Control {
    /// Prepared and not retired, installed or not.
    runtimes: BTreeMap<Key, Arc<Runtime>>,
    installed: BTreeSet<Key>,
    ledger: Ledger,
    worker_seats: Vec<Option<Seat>>,
    worker_taps: Vec<Option<Tap>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    model: String,
    version: String,
    digest: Bytes,
}

/// A version that is loaded and measured, and that nobody can ask yet.
#[derive(Debug)]
pub struct Prepared {
    version: VersionPlan,
    loaded: Loaded,
}

/// A copy of everything that is counted.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// By version and role: of the plan, and of what left it some minutes ago at most.
    pub versions: Vec<(Identity, Counts)>,
    /// By model: of all that left the plan before.
    pub folded: BTreeMap<String, Counts>,
    /// By model, or the empty name, and reason: what reached no version.
    pub refused: BTreeMap<(String, Option<Reason>), u64>,
    /// Requests accepted and unanswered.
    pub in_flight: usize,
    /// Those of them that wait for a thread of the pool.
    pub queued: usize,
    /// How long such a one should wait.
    pub queue_wait: Duration,
    /// Copies for shadows that found no room, by model and version of the shadow, as `versions`.
    pub shadow_dropped: BTreeMap<(String, String), u64>,
    /// Copies that wait for their shadow.
    pub shadow_queued: usize,
    /// Unexpected failures.
    pub faults: u64,
}

impl Prepared {
    /// What was measured.
    pub fn figures(&self) -> Figures {
        self.loaded.figures()
    }

    /// Runs it: for the golden rows.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, PrepareError> {
        self.loaded.run(inputs).map_err(prepare::fails)
    }
}

impl Engine {
    /// Loads ONNX Runtime and starts the threads of the pool; workers are started by the transport.
    pub fn start(onnxruntime: &Path, settings: Settings) -> Result<Self, StartError> {
        let library = Library::load(onnxruntime)?;
        let Settings {
            workers,
            pool_threads,
            bounds,
            texts,
            server_metadata,
            reflection,
        } = settings;
        let (room, mut seats) = Room::new(workers + pool_threads);
        let pool_seats = seats.split_off(workers);
        let faults = Arc::new(Faults::default());
        let pool = Pool::start(pool_seats, bounds.max_in_flight.saturating_mul(2).max(1), &faults)?;
        let shared = Shared {
            texts,
            bounds,
            installed: ArcSwap::from_pointee(Installed::default()),
            in_flight: AtomicUsize::new(0),
            pool,
            faults,
            refusals: (0..workers).map(|_| Refusals::default()).collect(),
            server_metadata,
            reflection,
            shadows: Shadows::new(bounds.max_shadow_queue, bounds.max_shadow_bytes),
            draining: AtomicBool::new(false),
        };
        let control = Control {
            runtimes: BTreeMap::new(),
            installed: BTreeSet::new(),
            ledger: Ledger::new(workers),
            worker_seats: seats.into_iter().map(Some).collect(),
            worker_taps: Vec::new(),
        };
        let (shared, reaper) = (Arc::new(shared), Reaper::start()?);
        Shadows::start(&shared, library, reaper.retiring())?;
        Ok(Self {
            library,
            seats: Seats { room, workers },
            shared,
            control: Mutex::new(control),
            reaper,
        })
    }

    /// Gives the workers that start from now on a ring each, and the counters page; the ring after theirs is the one of
    /// shadows.
    pub fn open_tap(&self, rings: &[PathBuf], page: &Path) -> Result<(), DamagedTap> {
        let page = Arc::new(Page::open(page)?);
        let tap = |(worker, ring): (usize, &PathBuf)| {
            let ring = RingWriter::open(ring)?;
            Ok(Some(Tap::new(worker, ring, Arc::clone(&page))))
        };
        let mut taps = rings.iter().enumerate().map(tap).collect::<Result<Vec<_>, _>>()?;
        let of_shadows = taps.get_mut(self.seats.workers).and_then(Option::take);
        self.control().worker_taps = taps;
        if let Some(tap) = of_shadows {
            self.shared.shadows.set_tap(tap);
        }
        Ok(())
    }

    /// The pipeline of a worker, to be called on its thread; None where it was taken already.
    pub fn pipeline(&self, worker: usize) -> Option<Pipeline> {
        let mut control = self.control();
        let seat = control.worker_seats.get_mut(worker)?.take()?;
        let tap = control.worker_taps.get_mut(worker).and_then(Option::take);
        let draw = Draw::new(RandomState::new().hash_one(worker));
        Some(Pipeline::new(Arc::clone(&self.shared), seat, draw, tap))
    }

    /// Loads, warms and measures a version on the calling thread. `sample` is one row of its inputs; zeros without.
    pub fn prepare(
        &self,
        version: VersionPlan,
        sample: Option<Vec<Tensor>>,
    ) -> Result<Prepared, PrepareError> {
        let loaded = prepare::prepare(self.library, &version, self.seats, sample)?;
        Ok(Prepared { version, loaded })
    }

    /// Takes a version that was prepared and checked: a plan may name it from now on.
    pub fn keep(&self, prepared: Prepared) {
        let Prepared { version, loaded } = prepared;
        self.control()
            .add(Runtime::new(version, Arc::new(loaded)), &self.reaper);
    }

    /// Takes a version whose package is here under another number already, without loading it again; None where it is
    /// not.
    pub fn share(&self, version: VersionPlan) -> Option<Figures> {
        let mut control = self.control();
        let same = control
            .runtimes
            .iter()
            .find(|(key, _)| key.digest == version.digest)?;
        let loaded = Arc::clone(&same.1.loaded);
        let figures = loaded.figures();
        control.add(Runtime::new(version, loaded), &self.reaper);
        Some(figures)
    }

    /// Forgets versions that were prepared and that no plan has named.
    pub fn discard_unused(&self) {
        let mut control = self.control();
        let installed = control.installed.clone();
        control.retire_but(&installed, &self.reaper);
    }

    /// Makes `plan` the one that requests read, at once; what it no longer names is retired. Nothing changes where it
    /// names what is not prepared.
    pub fn install(&self, plan: Plan) -> Result<(), NotPrepared> {
        let mut control = self.control();
        let Control { runtimes, ledger, .. } = &mut *control;
        let mut keys = BTreeSet::new();
        let mut identities = BTreeSet::new();
        let find = |model: &str, version: &str, digest: &[u8]| {
            let key = Key {
                model: model.to_owned(),
                version: version.to_owned(),
                digest: Bytes::copy_from_slice(digest),
            };
            let runtime = runtimes.get(&key).cloned();
            keys.insert(key);
            runtime
        };
        let tallies = |identity: &Identity| {
            identities.insert(identity.clone());
            ledger.of(identity)
        };
        let installed = Installed::resolve(plan, find, tallies)?;
        let before = self.shared.installed.swap(Arc::new(installed));
        self.shared.shadows.note_install();
        control.ledger.keep(&identities, Instant::now());
        let unused = control.installed.difference(&keys).cloned().collect::<Vec<_>>();
        control.installed = keys;
        control.retire(&unused, &self.reaper);
        self.reaper.retire(before);
        Ok(())
    }

    /// A copy of all counts; stops nobody.
    pub fn counters(&self) -> Counters {
        let sums = self.control().ledger.read(Instant::now());
        let shared = &self.shared;
        let mut refused = BTreeMap::new();
        for refusals in &shared.refusals {
            refusals.add_to(&mut refused);
        }
        let shadows = sums.versions.iter();
        let shadows = shadows.filter(|(identity, _)| identity.role == Role::Shadow);
        let shadow_dropped = shadows.map(|(identity, counts)| {
            let key = (identity.model.clone(), identity.version.clone());
            (key, counts.dropped)
        });
        Counters {
            shadow_dropped: shadow_dropped.collect(),
            shadow_queued: shared.shadows.queued(),
            versions: sums.versions,
            folded: sums.folded,
            refused,
            in_flight: shared.in_flight.load(Ordering::Relaxed),
            queued: shared.pool.queued(),
            queue_wait: shared.pool.wait(),
            faults: shared.faults.count(),
        }
    }

    /// What some versions have done, by model and version, in all roles: one entry each, None where nothing is counted
    /// apart. Costs by what is asked for.
    pub fn counts_of(&self, versions: &[(String, String)]) -> Vec<Option<Counts>> {
        let control = self.control();
        versions
            .iter()
            .map(|(model, version)| control.ledger.of_version(model, version))
            .collect()
    }

    /// The texts of unexpected failures since the last call.
    pub fn take_faults(&self) -> Vec<String> {
        self.shared.faults.take()
    }

    /// Refuses new requests from now on, or no more.
    pub fn set_draining(&self, is_draining: bool) {
        self.shared.draining.store(is_draining, Ordering::Relaxed);
    }

    /// Ends the thread of shadows after the copy that it is at, and waits for nothing: what waits is not run, and what
    /// it is at is neither recorded nor counted.
    pub fn end_shadows(&self) {
        self.shared.shadows.end();
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Engine {
    /// Hands everything to the reaper, which frees what no request holds.
    fn drop(&mut self) {
        self.end_shadows();
        let before = self.shared.installed.swap(Arc::default());
        self.control().retire_but(&BTreeSet::new(), &self.reaper);
        self.reaper.retire(before);
    }
}

impl Control {
    fn add(&mut self, runtime: Runtime, reaper: &Reaper) {
        let VersionPlan {
            model,
            version,
            digest,
            ..
        } = &*runtime.version;
        let key = Key {
            model: model.clone(),
            version: version.clone(),
            digest: digest.clone(),
        };
        // The installed plan goes on with the one before; it is retired here like any other.
        if let Some(before) = self.runtimes.insert(key, Arc::new(runtime)) {
            self.hand_over(before, reaper);
        }
    }

    fn retire_but(&mut self, kept: &BTreeSet<Key>, reaper: &Reaper) {
        let unused: Vec<Key> = self
            .runtimes
            .keys()
            .filter(|key| !kept.contains(key))
            .cloned()
            .collect();
        self.retire(&unused, reaper);
    }

    fn retire(&mut self, unused: &[Key], reaper: &Reaper) {
        for key in unused {
            if let Some(runtime) = self.runtimes.remove(key) {
                self.hand_over(runtime, reaper);
            }
        }
    }

    /// Gives up a version, and its sessions where no other one shares them.
    fn hand_over(&self, runtime: Arc<Runtime>, reaper: &Reaper) {
        let loaded = Arc::clone(&runtime.loaded);
        reaper.retire(runtime);
        if self
            .runtimes
            .values()
            .any(|other| Arc::ptr_eq(&other.loaded, &loaded))
        {
            return;
        }
        reaper.retire(loaded);
    }
}

#[cfg(test)]
pub(crate) mod tests;
