//! The data plane as Python holds it. Every method that may take long gives the interpreter back meanwhile, and no
//! thread of the data plane ever asks for it.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tickserve_core::counters::{Counts, STAGES};
use tickserve_core::engine::{Engine, Settings};
use tickserve_core::reflection::Reflection;
use tickserve_core::refusal::Reason;
use tickserve_core::refuse;
use tickserve_core::service::Service;
use tickserve_core::shared::{FRAME_BYTES, PipelineBounds};
use tickserve_core::texts::{Entry, Texts};
use tickserve_core::transport::{self, Bounds, Listener, Transport};

use crate::plan::{Plan, VersionPlan};
use crate::tensor;

/// Bounds as `ConnectionBounds` of tickserve/listening/connections.py has them, those of requests and those of shadows.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct GivenBounds {
    max_connections: usize,
    max_streams: u32,
    handshake_timeout_s: f64,
    keepalive_s: f64,
    keepalive_timeout_s: f64,
    client_ping_interval_s: f64,
    connection_idle_s: f64,
    connection_age_s: f64,
    age_grace_s: f64,
    max_message_bytes: usize,
    max_held_bytes: usize,
    max_in_flight: usize,
    max_in_flight_per_client: usize,
    max_shadow_queue: usize,
    max_shadow_bytes: usize,
}

/// One text of the table: name, status, reason, template, executed.
type GivenText = (String, String, Option<String>, String, bool);

/// PEM of the certificate with its chain, of its key, and of the authorities of clients.
type GivenTls = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// What a version has done, as far as its runs say whether it does well.
type GivenRuns<'py> = (
    u64,
    u64,
    Vec<(Option<&'static str>, u64)>,
    Bound<'py, PyBytes>,
    u64,
);

/// Where the run is among the stages.
const RUN: usize = 3;

/// The data plane.
#[pyclass(frozen, module = "tickserve_native")]
pub struct NativeEngine {
    engine: Arc<Engine>,
    texts: Arc<Texts>,
    bounds: Bounds,
    bounds_clients: bool,
    workers: usize,
    cpus: Vec<usize>,
    transport: Mutex<Option<Arc<Transport>>>,
}

/// A version that is loaded and measured, and that no plan can name yet.
#[pyclass(module = "tickserve_native")]
pub struct Prepared {
    inner: Option<tickserve_core::engine::Prepared>,
}

#[pymethods]
impl Prepared {
    /// (median run time of one row in ns, resident bytes, seconds to load)
    #[getter]
    fn figures(&self) -> PyResult<(u64, u64, f64)> {
        let figures = self.held()?.figures();
        Ok((
            figures.run_time_ns,
            figures.resident_bytes,
            figures.load_time.as_secs_f64(),
        ))
    }

    /// Runs it; for the golden rows.
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        inputs: Vec<tensor::Given>,
    ) -> PyResult<Vec<tensor::Written<'py>>> {
        let inputs = inputs
            .into_iter()
            .map(tensor::read)
            .collect::<PyResult<Vec<_>>>()?;
        let prepared = self.inner.as_mut().ok_or_else(given_away)?;
        let outputs = py.detach(|| prepared.run(&inputs)).map_err(runtime_error)?;
        outputs.iter().map(|output| tensor::write(py, output)).collect()
    }
}

impl Prepared {
    fn held(&self) -> PyResult<&tickserve_core::engine::Prepared> {
        self.inner.as_ref().ok_or_else(given_away)
    }
}

#[pymethods]
impl NativeEngine {
    /// Loads ONNX Runtime and starts the threads of the pool.
    #[new]
    #[pyo3(signature = (*, onnxruntime, workers, cpus, pool_threads, bounds, texts, server_metadata, services, descriptors))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        onnxruntime: PathBuf,
        workers: usize,
        cpus: Vec<usize>,
        pool_threads: usize,
        bounds: GivenBounds,
        texts: Vec<GivenText>,
        server_metadata: Vec<u8>,
        services: Vec<String>,
        descriptors: Vec<Vec<u8>>,
    ) -> PyResult<Self> {
        let entry = |(name, code, reason, template, executed)| Entry {
            name,
            code,
            reason,
            template,
            executed,
        };
        let texts = Arc::new(Texts::new(texts.into_iter().map(entry)).map_err(value_error)?);
        let descriptors = descriptors.into_iter().map(Bytes::from);
        let reflection = Reflection::new(services, descriptors, Arc::clone(&texts)).map_err(value_error)?;
        let settings = Settings {
            workers,
            pool_threads,
            bounds: PipelineBounds {
                max_in_flight: bounds.max_in_flight,
                max_in_flight_per_client: bounds.max_in_flight_per_client,
                max_answer_bytes: bounds.max_message_bytes.saturating_sub(FRAME_BYTES),
                max_shadow_queue: bounds.max_shadow_queue,
                max_shadow_bytes: bounds.max_shadow_bytes,
            },
            texts: Arc::clone(&texts),
            server_metadata: server_metadata.into(),
            reflection,
        };
        let engine = py
            .detach(|| Engine::start(&onnxruntime, settings))
            .map_err(runtime_error)?;
        Ok(Self {
            engine: Arc::new(engine),
            texts,
            bounds_clients: bounds.max_in_flight_per_client < bounds.max_in_flight,
            bounds: bounds.try_into()?,
            workers,
            cpus,
            transport: Mutex::new(None),
        })
    }

    /// Gives each worker a ring, and the thread of shadows the one after; all of them the counters page. Before `start`.
    fn open_tap(&self, rings: Vec<PathBuf>, page: PathBuf) -> PyResult<()> {
        self.engine.open_tap(&rings, &page).map_err(runtime_error)
    }

    /// Serves on sockets that are bound and listen: (descriptor, whether it is a Unix socket). It owns them from now on.
    #[pyo3(signature = (sockets, tls))]
    fn start(&self, py: Python<'_>, sockets: Vec<(RawFd, bool)>, tls: Option<GivenTls>) -> PyResult<()> {
        let listeners = sockets.into_iter().map(|(descriptor, is_unix)| {
            // SAFETY: the adapter detached the descriptor from its socket object, so nobody else closes it.
            let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
            if is_unix {
                Listener::Unix(owned.into())
            } else {
                Listener::Tcp(owned.into())
            }
        });
        let options = transport::Options {
            bounds: self.bounds,
            tls: tls.map(server_config).transpose()?,
            workers: self.workers,
            cpus: self.cpus.clone(),
            bounds_clients: self.bounds_clients,
            internal: refuse::fault(&self.texts),
        };
        let engine = Arc::clone(&self.engine);
        let service = move |worker: usize| -> Rc<dyn Service> {
            match engine.pipeline(worker) {
                Some(pipeline) => Rc::new(pipeline),
                // Each worker asks once, when it starts; the panic is caught there and marks the transport dead.
                None => unreachable!("worker {worker} was started twice"),
            }
        };
        let listeners = listeners.collect();
        let started = py
            .detach(|| Transport::start(listeners, options, service))
            .map_err(runtime_error)?;
        *self.transport() = Some(Arc::new(started));
        Ok(())
    }

    /// Gives new connections these certificates.
    fn set_tls(&self, tls: GivenTls) -> PyResult<()> {
        let config = server_config(tls)?;
        if let Some(transport) = self.running() {
            transport.set_tls(config);
        }
        Ok(())
    }

    /// Loads, warms and measures a version on the calling thread; `sample` is one row of its inputs.
    fn prepare(
        &self,
        py: Python<'_>,
        version: VersionPlan,
        sample: Option<Vec<tensor::Given>>,
    ) -> PyResult<Prepared> {
        let version = version.try_into()?;
        let sample = sample
            .map(|inputs| inputs.into_iter().map(tensor::read).collect::<PyResult<Vec<_>>>())
            .transpose()?;
        let prepared = py
            .detach(|| self.engine.prepare(version, sample))
            .map_err(runtime_error)?;
        Ok(Prepared {
            inner: Some(prepared),
        })
    }

    /// Takes a prepared version: a plan may name it from now on.
    fn keep(&self, py: Python<'_>, mut prepared: PyRefMut<'_, Prepared>) -> PyResult<()> {
        let inner = prepared.inner.take().ok_or_else(given_away)?;
        py.detach(|| self.engine.keep(inner));
        Ok(())
    }

    /// Makes `plan` the one that requests read, at once.
    fn install(&self, py: Python<'_>, plan: Plan) -> PyResult<()> {
        let plan = plan.try_into()?;
        py.detach(|| self.engine.install(plan)).map_err(runtime_error)
    }

    /// Everything that is counted.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = py.detach(|| self.engine.counters());
        let versions = counters
            .versions
            .iter()
            .map(|(identity, counts)| {
                Ok((
                    &identity.model,
                    &identity.version,
                    identity.role as u8,
                    counts_dict(py, counts)?,
                ))
            })
            .collect::<PyResult<Vec<_>>>()?;
        let folded = counters
            .folded
            .iter()
            .map(|(model, counts)| Ok((model, counts_dict(py, counts)?)))
            .collect::<PyResult<Vec<_>>>()?;
        let refused = counters
            .refused
            .iter()
            .map(|((model, reason), count)| (model, reason.map(Reason::label), *count))
            .collect::<Vec<_>>();
        let transport = self.running();
        let panics = transport.as_ref().map_or(0, |transport| transport.fault_count());
        let busy: Vec<u64> = transport.map_or_else(Vec::new, |each| {
            each.loads().iter().map(|load| load.busy_ns).collect()
        });
        let shadow_dropped = counters.shadow_dropped.iter();
        let shadow_dropped: Vec<_> = shadow_dropped
            .map(|((model, version), count)| (model, version, *count))
            .collect();
        let dict = PyDict::new(py);
        dict.set_item("shadow_dropped", shadow_dropped)?;
        dict.set_item("shadow_queued", counters.shadow_queued)?;
        dict.set_item("versions", versions)?;
        dict.set_item("folded", folded)?;
        dict.set_item("refused", refused)?;
        dict.set_item("in_flight", counters.in_flight)?;
        dict.set_item("queue_wait_s", counters.queue_wait.as_secs_f64())?;
        dict.set_item("faults", counters.faults + panics)?;
        dict.set_item("worker_busy_ns", busy)?;
        Ok(dict)
    }

    /// What some versions have done in all roles, for (model, version) each: (answered, rows, errors by reason, counts of
    /// the stage run by bucket, sum of them in ns), or None where nothing is counted apart.
    fn runs<'py>(&self, py: Python<'py>, versions: Vec<(String, String)>) -> Vec<Option<GivenRuns<'py>>> {
        let counts = py.detach(|| self.engine.counts_of(&versions));
        let given = |counts: Counts| {
            let run = &counts.stages[RUN];
            let errors = counts.errors.iter();
            (
                counts.answered,
                counts.rows,
                errors
                    .map(|(reason, count)| (reason.map(Reason::label), *count))
                    .collect(),
                PyBytes::new(py, &little_endian(&run.counts)),
                run.sum_ns,
            )
        };
        counts.into_iter().map(|counts| counts.map(given)).collect()
    }

    /// Texts of unexpected failures since the last call.
    fn take_faults(&self) -> Vec<String> {
        let mut faults = self.engine.take_faults();
        if let Some(transport) = self.running() {
            faults.extend(transport.take_faults());
        }
        faults
    }

    /// Whether every worker answers within `within_s` seconds.
    fn is_alive(&self, py: Python<'_>, within_s: f64) -> PyResult<bool> {
        let within = seconds(within_s)?;
        Ok(self
            .running()
            .is_some_and(|transport| py.detach(|| transport.is_alive(within))))
    }

    /// Whether a worker or the acceptor has ended though nobody told it to.
    fn has_died(&self) -> bool {
        self.running().is_some_and(|transport| transport.has_died())
    }

    /// What health checks and ServerReady say.
    fn set_ready(&self, is_ready: bool) {
        if let Some(transport) = self.running() {
            transport.set_ready(is_ready);
        }
    }

    /// Refuses new requests, answers those in flight for up to `grace_s` seconds, and ends the workers.
    fn stop(&self, py: Python<'_>, grace_s: f64) -> PyResult<()> {
        let grace = seconds(grace_s)?;
        self.engine.set_draining(true);
        if let Some(transport) = self.running() {
            py.detach(|| transport.stop(grace));
        }
        self.engine.end_shadows();
        Ok(())
    }
}

impl NativeEngine {
    fn transport(&self) -> MutexGuard<'_, Option<Arc<Transport>>> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Option<Arc<Transport>> {
        self.transport().clone()
    }
}

impl TryFrom<GivenBounds> for Bounds {
    type Error = PyErr;

    fn try_from(given: GivenBounds) -> PyResult<Self> {
        Ok(Self {
            max_connections: given.max_connections,
            max_streams: given.max_streams,
            handshake_timeout: seconds(given.handshake_timeout_s)?,
            keepalive: seconds(given.keepalive_s)?,
            keepalive_timeout: seconds(given.keepalive_timeout_s)?,
            client_ping_interval: seconds(given.client_ping_interval_s)?,
            idle: seconds(given.connection_idle_s)?,
            age: seconds(given.connection_age_s)?,
            age_grace: seconds(given.age_grace_s)?,
            max_message_bytes: given.max_message_bytes,
            max_held_bytes: given.max_held_bytes,
        })
    }
}

fn counts_dict<'py>(py: Python<'py>, counts: &Counts) -> PyResult<Bound<'py, PyDict>> {
    let stages = PyDict::new(py);
    for (name, stage) in STAGES.iter().zip(&counts.stages) {
        let bytes = little_endian(&stage.counts);
        stages.set_item(name, (PyBytes::new(py, &bytes), stage.sum_ns))?;
    }
    let errors: Vec<_> = counts
        .errors
        .iter()
        .map(|(reason, count)| (reason.map(Reason::label), *count))
        .collect();
    let violations: Vec<_> = counts
        .rule_violations
        .iter()
        .map(|((rule, policy), count)| (rule, *policy, *count))
        .collect();
    let dict = PyDict::new(py);
    dict.set_item("stages", stages)?;
    dict.set_item("answered", counts.answered)?;
    dict.set_item("rows", counts.rows)?;
    dict.set_item("slow", counts.slow)?;
    dict.set_item("errors", errors)?;
    dict.set_item("rule_violations", violations)?;
    dict.set_item("last_answer_unix_ns", counts.last_answer_unix_ns)?;
    Ok(dict)
}

fn little_endian(counts: &[u64]) -> Vec<u8> {
    counts.iter().flat_map(|count| count.to_le_bytes()).collect()
}

fn server_config((certificate, key, client_ca): GivenTls) -> PyResult<Arc<rustls::ServerConfig>> {
    transport::server_config(&certificate, &key, client_ca.as_deref()).map_err(value_error)
}

fn seconds(number: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(number).map_err(value_error)
}

fn given_away() -> PyErr {
    PyRuntimeError::new_err("the version was handed to the engine already")
}

fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn runtime_error(error: impl std::fmt::Display) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}
