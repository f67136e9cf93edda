//! Loading a version: read, verified, a session for every seat, warmed up and measured. Slow; on a control thread.
//!
//! All but the measuring is done in the background, so that a load takes no processor from those that serve. What is
//! measured says how long a request will take, and bounds what the breaker lets pass: it is done at their priority.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::background::in_background;
use crate::call::{Elements, Tensor};
use crate::loaded::{Figures, Loaded};
use crate::plan::{Datatype, TensorSpec, VersionPlan};
use crate::seat::{PerSeat, Room};
use crate::session::{Library, RuntimeFailure, Session, SessionError};

/// A request that should take longer than this, or whose message is larger, leaves its worker for the pool.
pub const INLINE_NS: f64 = 200_000.0;
/// See `INLINE_NS`.
pub const INLINE_BYTES: usize = 64 << 10;

const MODEL_FILE: &str = "model.onnx";
const WARM_UP_RUNS: usize = 20;
/// Of each further session.
const SEAT_WARM_UP_RUNS: usize = 3;
const TIMED_RUNS: usize = 50;
const TIMING_BUDGET: Duration = Duration::from_millis(500);
/// What reading, checking and writing one value costs at most; text is decoded one by one.
const VALUE_NS: u64 = 5;
const TEXT_NS: u64 = 50;

/// Why a version cannot serve; a sentence for people.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PrepareError {
    /// The file is not the one that the plan names.
    #[error("{0}")]
    Damaged(String),
    /// The runtime cannot load it, or it does not run as it declares.
    #[error("{0}")]
    Package(String),
}

/// Which seats are workers; those after them are threads of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Seats {
    /// All of them.
    pub room: Room,
    /// How many, from the first on, are workers.
    pub workers: usize,
}

/// Loads, warms and measures a version while the calling thread waits. `sample` is one row of its inputs, from the golden rows;
/// zeros without.
pub fn prepare(
    library: &'static Library,
    version: &VersionPlan,
    seats: Seats,
    sample: Option<Vec<Tensor>>,
) -> Result<Loaded, PrepareError> {
    let started = Instant::now();
    let resident_before = resident_bytes();
    let make = |model: &[u8]| session(library, version, model);
    let (model, mut first) = aside(|| {
        let model = read(&version.model_file, &version.model_sha256)?;
        let first = make(&model)?;
        Ok((model, first))
    })?;
    let sample = match sample {
        Some(sample) => sample,
        None => row_of_zeros(version)?,
    };
    let (run_time_ns, ns_per_value) = measure(&mut first, version, &sample)?;
    let smallest: f64 = version
        .inputs
        .iter()
        .map(|spec| elements(&smallest_shape(spec)) as f64)
        .sum();
    let runs_inline = ns_per_value * smallest <= INLINE_NS;
    let mut first = Some(first);
    let sessions = aside(|| {
        PerSeat::try_new(&seats.room, |seat| {
            if seat < seats.workers && !runs_inline {
                return Ok(None);
            }
            if let Some(measured) = first.take() {
                return Ok(Some(measured));
            }
            let mut session = make(&model)?;
            median_run_time_ns(&mut session, &sample, SEAT_WARM_UP_RUNS)?;
            Ok(Some(session))
        })
    })?;
    let figures = Figures {
        run_time_ns,
        resident_bytes: resident_bytes().saturating_sub(resident_before),
        load_time: started.elapsed(),
    };
    Ok(Loaded::new(sessions, ns_per_value, runs_inline, figures))
}

/// What `work` gives, done in the background.
fn aside<T: Send>(work: impl FnOnce() -> Result<T, PrepareError> + Send) -> Result<T, PrepareError> {
    let no_thread = |error| PrepareError::Package(format!("there is no thread to load it on: {error}"));
    in_background(work).map_err(no_thread)?
}

/// One more session of a version that is prepared, for a thread without a seat; warmed with zeros, where they run.
pub fn one_session(library: &'static Library, version: &VersionPlan) -> Result<Session, PrepareError> {
    let model = read(&version.model_file, &version.model_sha256)?;
    let mut made = session(library, version, &model)?;
    let row = row_of_zeros(version)?;
    // A model may fail on zeros; that it runs was seen when it was prepared.
    let _ran = median_run_time_ns(&mut made, &row, SEAT_WARM_UP_RUNS);
    Ok(made)
}

fn session(library: &'static Library, version: &VersionPlan, model: &[u8]) -> Result<Session, PrepareError> {
    Session::new(library, model, &version.inputs, &version.outputs).map_err(|e| unloadable(library, e))
}

fn row_of_zeros(version: &VersionPlan) -> Result<Vec<Tensor>, PrepareError> {
    version.inputs.iter().map(zeros).collect()
}

/// The bytes of the model, which are those that the plan names.
fn read(file: &Path, sha256: &str) -> Result<Vec<u8>, PrepareError> {
    let model = std::fs::read(file).map_err(|error| {
        let said = error.to_string();
        let reason = said.split(" (os error").next().unwrap_or_default();
        PrepareError::Damaged(format!("cannot read {}: {reason}", file.display()))
    })?;
    if hexadecimal(&Sha256::digest(&model)) != sha256 {
        return Err(PrepareError::Damaged(format!(
            "{MODEL_FILE} changed after it was verified: its SHA-256 differs"
        )));
    }
    Ok(model)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Median time of one row, and the cost of a request by each value that goes in.
fn measure(session: &mut Session, version: &VersionPlan, row: &[Tensor]) -> Result<(u64, f64), PrepareError> {
    let first = Instant::now();
    let outputs = session.run(row).map_err(fails)?;
    let first_took = first.elapsed();
    for (spec, output) in version.outputs.iter().zip(&outputs) {
        if !fits_one_row(spec, &output.shape) {
            return Err(PrepareError::Package(format!(
                "output '{}' has shape {:?} for one row, declared is {:?}; an output gives one row for each row \
                 asked for, whatever the values are",
                spec.name, output.shape, spec.shape
            )));
        }
    }
    let run_time_ns = if first_took > TIMING_BUDGET {
        // Of a run this long the beginning is no great part.
        nanoseconds(first_took)
    } else {
        median_run_time_ns(session, row, WARM_UP_RUNS)?;
        median_run_time_ns(session, row, TIMED_RUNS)?
    };
    let handling = |tensor: &Tensor| {
        elements(&tensor.shape)
            * if tensor.datatype == Datatype::Bytes {
                TEXT_NS
            } else {
                VALUE_NS
            }
    };
    let handling_ns: u64 = row.iter().chain(&outputs).map(handling).sum();
    let values: u64 = row.iter().map(|tensor| elements(&tensor.shape)).sum();
    Ok((
        run_time_ns,
        (run_time_ns + handling_ns) as f64 / values.max(1) as f64,
    ))
}

/// Whether an output has the declared shape, with one row where its rows are open.
fn fits_one_row(spec: &TensorSpec, shape: &[i64]) -> bool {
    let declared = &spec.shape;
    let has_rows = declared.first() != Some(&-1) || shape.first() == Some(&1);
    has_rows
        && shape.len() == declared.len()
        && shape.iter().zip(declared).all(|(size, d)| size == d || *d == -1)
}

fn median_run_time_ns(session: &mut Session, row: &[Tensor], runs: usize) -> Result<u64, PrepareError> {
    let begun = Instant::now();
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        session.run(row).map_err(fails)?;
        times.push(nanoseconds(start.elapsed()));
        if begun.elapsed() > TIMING_BUDGET {
            break;
        }
    }
    times.sort_unstable();
    let middle = times.len() / 2;
    let median = if times.len() % 2 == 1 {
        times[middle]
    } else {
        (times[middle - 1] + times[middle]) / 2
    };
    Ok(median)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn smallest_shape(spec: &TensorSpec) -> Vec<i64> {
    spec.shape
        .iter()
        .map(|&size| if size == -1 { 1 } else { size })
        .collect()
}

fn elements(shape: &[i64]) -> u64 {
    shape
        .iter()
        .map(|&size| u64::try_from(size).unwrap_or(0))
        .fold(1, u64::saturating_mul)
}

fn zeros(spec: &TensorSpec) -> Result<Tensor, PrepareError> {
    let shape = smallest_shape(spec);
    let too_large = || {
        PrepareError::Package(format!(
            "one row of input '{}' does not fit into memory",
            spec.name
        ))
    };
    let count = usize::try_from(elements(&shape)).map_err(|_| too_large())?;
    let elements = match spec.datatype.size() {
        None => Elements::Strings(vec![String::new(); count]),
        Some(size) => {
            let mut data = Vec::new();
            let size = count.checked_mul(size).ok_or_else(too_large)?;
            data.try_reserve_exact(size).map_err(|_| too_large())?;
            data.resize(size, 0);
            Elements::Numbers(Bytes::from(data))
        }
    };
    Ok(Tensor {
        datatype: spec.datatype,
        shape,
        elements,
    })
}

fn unloadable(library: &Library, error: SessionError) -> PrepareError {
    let SessionError::Load(RuntimeFailure(message)) = &error else {
        return PrepareError::Package(error.to_string());
    };
    let (version, reason) = (library.version(), reason(message));
    let lacks = [
        "NOT_IMPLEMENTED",
        "No Op registered",
        "is not a registered function/op",
        "opset",
        "IR version",
    ];
    PrepareError::Package(if lacks.iter().any(|sign| message.contains(sign)) {
        format!(
            "{MODEL_FILE} uses an operator or operator set that onnxruntime {version} lacks: {reason}; export with \
             the operators that it has, or serve with a newer runtime"
        )
    } else {
        format!("{MODEL_FILE} cannot be loaded by onnxruntime {version}: {reason}")
    })
}

/// What is wrong with a model that loads and does not run.
pub fn fails(failure: RuntimeFailure) -> PrepareError {
    PrepareError::Package(format!(
        "{MODEL_FILE} fails on its inputs: {}",
        reason(&failure.0)
    ))
}

/// On one line, of at most 300 characters, without the runtime's own prefix: a number and a name of its source file.
fn reason(message: &str) -> String {
    let last = message.rsplit("] : ").next().unwrap_or_default();
    last.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(300)
        .collect()
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
