//! The load generator as Python holds it. It runs on the thread that calls it, with the interpreter given back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tickserve_core::load::{
    self, Address, Control, LoadError, Options, Outcome, Pacing, Quantiles, Report, Tls, Travel,
};

const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// PEM of the authorities, and of the own certificate and its key.
type GivenTls = (Vec<u8>, Option<(Vec<u8>, Vec<u8>)>);

/// A host and a port, or the path of a Unix socket.
#[derive(FromPyObject)]
enum GivenAddress {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// One run of the load generator; `tickserve.load` is what to use.
#[pyclass(frozen, module = "tickserve_native")]
pub struct Load {
    options: Options,
    control: Arc<Control>,
}

#[pymethods]
impl Load {
    /// `rate` makes an open loop of at most `in_flight` unanswered requests, `is_idle` silent connections, and neither
    /// a closed loop. ValueError where TLS cannot be set up, or an option is out of its range.
    #[new]
    #[pyo3(signature = (*, address, tls, path, messages, travel, rate, in_flight, is_idle, connections, warmup_s,
                        duration_s, deadline_s, interval_s, keeps_times))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        address: GivenAddress,
        tls: Option<GivenTls>,
        path: String,
        messages: Vec<Vec<u8>>,
        travel: &str,
        rate: Option<f64>,
        in_flight: usize,
        is_idle: bool,
        connections: usize,
        warmup_s: f64,
        duration_s: f64,
        deadline_s: f64,
        interval_s: f64,
        keeps_times: bool,
    ) -> PyResult<Self> {
        if messages.is_empty() || in_flight == 0 || connections == 0 {
            return Err(PyValueError::new_err(
                "a message, a request in flight and a connection are needed",
            ));
        }
        if rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return Err(PyValueError::new_err("the rate must be above 0"));
        }
        let address = match address {
            GivenAddress::Tcp(host, port) => Address::Tcp(host, port),
            GivenAddress::Unix(path) => Address::Unix(path),
        };
        let host = match &address {
            Address::Tcp(host, _) => host.as_str(),
            Address::Unix(_) => "localhost",
        };
        let tls = match &tls {
            None => None,
            Some((roots, identity)) => {
                let identity = identity.as_ref().map(|(chain, key)| (&chain[..], &key[..]));
                Some(
                    Tls::new(roots, identity, host)
                        .map_err(|error| PyValueError::new_err(error.to_string()))?,
                )
            }
        };
        let options = Options {
            address,
            tls,
            path,
            messages: messages.into_iter().map(Bytes::from).collect(),
            travel: match travel {
                "unary" => Travel::Unary,
                "predict stream" => Travel::PredictStream,
                "infer stream" => Travel::InferStream,
                _ => return Err(PyValueError::new_err(format!("{travel:?} is no way to travel"))),
            },
            pacing: match (is_idle, rate) {
                (true, _) => Pacing::Idle,
                (false, Some(rate)) => Pacing::Open {
                    rate,
                    max_in_flight: in_flight,
                },
                (false, None) => Pacing::Closed { in_flight },
            },
            connections,
            warmup: seconds(warmup_s)?,
            duration: seconds(duration_s)?,
            deadline: seconds(deadline_s)?,
            interval: seconds(interval_s)?,
            keeps_times,
        };
        Ok(Self {
            options,
            control: Arc::default(),
        })
    }

    /// Runs to the end and says what came out. `on_ready` is called once the connections are open.
    ///
    /// ConnectionError where the server cannot be reached at the start.
    #[pyo3(signature = (on_ready=None))]
    fn run<'py>(&self, py: Python<'py>, on_ready: Option<Py<PyAny>>) -> PyResult<Bound<'py, PyDict>> {
        let report = py.detach(|| {
            load::run(&self.options, &self.control, || {
                if let Some(callback) = on_ready {
                    Python::attach(|py| {
                        if let Err(error) = callback.call0(py) {
                            error.write_unraisable(py, None);
                        }
                    });
                }
            })
        });
        described(py, report.map_err(raised)?)
    }

    /// Sends the first message once: outcome, the server's text, and the answer.
    fn call<'py>(&self, py: Python<'py>) -> PyResult<(String, bool, String, Bound<'py, PyBytes>)> {
        let (outcome, said, answer) = py.detach(|| load::call(&self.options)).map_err(raised)?;
        let is_answered = outcome == Outcome::Answered;
        Ok((outcome.to_string(), is_answered, said, PyBytes::new(py, &answer)))
    }

    /// Ends a run from another thread: no more is sent. The second time: what is unanswered is given up.
    fn stop(&self) {
        self.control.stop();
    }
}

fn described(py: Python<'_>, report: Report) -> PyResult<Bound<'_, PyDict>> {
    let found = PyDict::new(py);
    let outcomes: Vec<_> = report.outcomes.iter().map(|(name, _)| name).collect();
    found.set_item("outcomes", outcomes)?;
    found.set_item(
        "counts",
        report
            .outcomes
            .iter()
            .map(|(_, count)| *count)
            .collect::<Vec<_>>(),
    )?;
    found.set_item("warmup_counts", report.warmup_outcomes)?;
    found.set_item("broken", report.broken)?;
    found.set_item("missed", report.missed)?;
    found.set_item("answered_in_time", report.answered_in_time)?;
    found.set_item("measured_s", report.measured.as_secs_f64())?;
    found.set_item("is_stopped", report.is_stopped)?;
    found.set_item("latency", distribution(py, &report.latency)?)?;
    found.set_item("service_time", distribution(py, &report.service_time)?)?;
    found.set_item("lateness", distribution(py, &report.lateness)?)?;
    let intervals = report.intervals.iter().map(|interval| {
        let us = |ns: u64| ns as f64 / 1e3;
        let (p50, p99, max) = (us(interval.p50_ns), us(interval.p99_ns), us(interval.max_ns));
        (
            interval.start.as_secs_f64(),
            interval.answered,
            interval.failed,
            p50,
            p99,
            max,
        )
    });
    found.set_item("intervals", intervals.collect::<Vec<_>>())?;
    let rows: Vec<u8> = report
        .times
        .iter()
        .flatten()
        .flat_map(|time| time.to_le_bytes())
        .collect();
    found.set_item("times", PyBytes::new(py, &rows))?;
    found.set_item("cpu_s", report.cpu.as_secs_f64())?;
    found.set_item("wall_s", report.wall.as_secs_f64())?;
    found.set_item("most_in_flight", report.most_in_flight)?;
    found.set_item("stream_limit", report.stream_limit)?;
    found.set_item("reconnections", report.reconnections)?;
    Ok(found)
}

/// In microseconds; None where there are none.
fn distribution<'py>(py: Python<'py>, quantiles: &Quantiles) -> PyResult<Option<Bound<'py, PyDict>>> {
    if quantiles.count() == 0 {
        return Ok(None);
    }
    let us = |ns: u64| ns as f64 / 1e3;
    let found = PyDict::new(py);
    let (min, max) = quantiles.extremes_ns();
    found.set_item("count", quantiles.count())?;
    found.set_item("mean_us", quantiles.mean_ns() / 1e3)?;
    found.set_item("min_us", us(min))?;
    for (name, quantile) in QUANTILES {
        found.set_item(format!("{name}_us"), us(quantiles.value_ns(quantile)))?;
    }
    found.set_item("max_us", us(max))?;
    found.set_item("buckets", quantiles.buckets())?;
    Ok(Some(found))
}

fn seconds(given: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(given).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn raised(error: LoadError) -> PyErr {
    match error {
        LoadError::Connect(error) => PyConnectionError::new_err(error.to_string()),
        LoadError::Runtime(error) => PyOSError::new_err(error.to_string()),
    }
}
