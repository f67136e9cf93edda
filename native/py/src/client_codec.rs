//! Requests from arrays and answers into arrays, for the usual case; what is not usual is left to Python, whose texts say
//! what is wrong with it.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyString, PyTuple, PyType};
use pyo3::{ffi, intern};
use tickserve_core::client::prediction::{self, PredictResponse, Request};

const MAX_ID_BYTES: usize = 64;

/// Writes requests for one model, or one version of it.
#[pyclass(frozen, module = "tickserve_native")]
pub struct ArrayEncoder {
    model: String,
    version: String,
    feature_digest: Vec<u8>,
    /// How many features a row has, where that is known.
    width: Option<usize>,
}

#[pymethods]
impl ArrayEncoder {
    #[new]
    fn new(model: String, version: String, feature_digest: Vec<u8>, width: Option<usize>) -> Self {
        Self {
            model,
            version,
            feature_digest,
            width,
        }
    }

    /// The bytes of a request; None for anything but whole rows of native float32 in C order and texts of allowed length.
    fn encode<'py>(
        &self,
        py: Python<'py>,
        features: &Bound<'py, PyAny>,
        request_id: &str,
        routing_key: Option<&str>,
        entities: Vec<String>,
        event_time_unix_ns: i64,
    ) -> Option<Bound<'py, PyBytes>> {
        let routing_key = routing_key.unwrap_or_default();
        if request_id.len() > MAX_ID_BYTES || routing_key.len() > MAX_ID_BYTES {
            return None;
        }
        let features = PyBuffer::<f32>::get(features).ok()?;
        // Others say `>f`, which the type alone does not tell apart.
        if features.format() != c"f" && features.format() != c"<f" {
            return None;
        }
        let (rows, steps, width) = match *features.shape() {
            [width] => (1, 1, width),
            [rows, width] => (rows, 1, width),
            [rows, steps, width] => (rows, steps, width),
            _ => return None,
        };
        let is_known = self.width.is_none_or(|known| known == width);
        if !is_known
            || features.item_count() == 0
            || !features.is_c_contiguous()
            || cfg!(target_endian = "big")
        {
            return None;
        }
        let request = Request {
            model: &self.model,
            version: &self.version,
            request_id,
            routing_key,
            entities: &entities,
            event_time_unix_ns,
            feature_digest: &self.feature_digest,
            rows: u32::try_from(rows).ok()?,
            steps: u32::try_from(steps).ok()?,
        };
        // SAFETY: the buffer is C-contiguous, so that its `len_bytes` bytes lie behind the pointer, and it is held until
        // the end of this function. Another thread that writes them meanwhile, without the interpreter's lock, can only
        // make other numbers of them: they are copied at once and never looked at.
        let bytes =
            unsafe { std::slice::from_raw_parts(features.buf_ptr().cast::<u8>(), features.len_bytes()) };
        Some(PyBytes::new(py, &prediction::encode(&request, bytes)))
    }
}

/// Makes predictions of answers.
#[pyclass(frozen, module = "tickserve_native")]
pub struct AnswerDecoder {
    prediction: Py<PyType>,
    finding: Py<PyType>,
    array: Py<PyAny>,
    float32: Py<PyAny>,
    roles: Py<PyDict>,
    kinds: Py<PyDict>,
    others: Vec<(Py<PyString>, Py<PyAny>)>,
}

#[pymethods]
impl AnswerDecoder {
    /// Of the classes to make, numpy's `ndarray` and float32, the roles and kinds by their numbers (of 0, too), and what
    /// a prediction has besides that no answer says.
    #[new]
    fn new(
        prediction: Py<PyType>,
        finding: Py<PyType>,
        array: Py<PyAny>,
        float32: Py<PyAny>,
        roles: Py<PyDict>,
        kinds: Py<PyDict>,
        others: Vec<(Py<PyString>, Py<PyAny>)>,
    ) -> Self {
        Self {
            prediction,
            finding,
            array,
            float32,
            roles,
            kinds,
            others,
        }
    }

    /// The prediction in `message`; its columns have `value_names` where the package of `digest` answered. None where it is
    /// no answer, or contradicts itself.
    fn decode<'py>(
        &self,
        py: Python<'py>,
        message: &[u8],
        digest: &Bound<'py, PyString>,
        value_names: &Bound<'py, PyTuple>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(answer) = prediction::decode(message) else {
            return Ok(None);
        };
        let rows = answer.rows as usize;
        let columns = answer.values.len() / rows;
        let said = hex(&answer.digest);
        let is_known = digest.to_str().is_ok_and(|digest| digest == said);
        let names = if is_known && value_names.len() == columns {
            value_names.clone()
        } else {
            PyTuple::empty(py)
        };
        let digest = if is_known {
            digest.clone()
        } else {
            PyString::new(py, &said)
        };
        let values = self.floats(py, &answer.values, (rows, columns))?;
        let made = new_instance(self.prediction.bind(py))?;
        set(&made, intern!(py, "values"), &values)?;
        set(&made, intern!(py, "rows"), &rows.into_pyobject(py)?)?;
        set(&made, intern!(py, "signal"), &self.optional(py, &answer.signal)?)?;
        set(
            &made,
            intern!(py, "confidence"),
            &self.optional(py, &answer.confidence)?,
        )?;
        set(&made, intern!(py, "model"), &PyString::new(py, &answer.model))?;
        set(&made, intern!(py, "version"), &PyString::new(py, &answer.version))?;
        set(&made, intern!(py, "digest"), &digest)?;
        set(
            &made,
            intern!(py, "role"),
            &named(self.roles.bind(py), answer.role)?,
        )?;
        set(
            &made,
            intern!(py, "plan_generation"),
            &answer.plan_generation.into_pyobject(py)?,
        )?;
        let scale = f64::from(answer.position_scale);
        set(&made, intern!(py, "position_scale"), &scale.into_pyobject(py)?)?;
        set(&made, intern!(py, "findings"), &self.findings(py, &answer)?)?;
        set(
            &made,
            intern!(py, "request_id"),
            &PyString::new(py, &answer.request_id),
        )?;
        set(
            &made,
            intern!(py, "server_duration_ns"),
            &answer.server_duration_ns.into_pyobject(py)?,
        )?;
        set(&made, intern!(py, "value_names"), &names)?;
        set(
            &made,
            intern!(py, "findings_left_out"),
            &answer.findings_left_out.into_pyobject(py)?,
        )?;
        for (name, value) in &self.others {
            set(&made, name.bind(py), value.bind(py))?;
        }
        Ok(Some(made))
    }
}

impl AnswerDecoder {
    /// An array of its own memory, which a caller may write to.
    fn floats<'py, S>(&self, py: Python<'py>, values: &[f32], shape: S) -> PyResult<Bound<'py, PyAny>>
    where
        S: IntoPyObject<'py>,
    {
        let memory = PyByteArray::new_with(py, size_of_val(values), |memory| {
            for (place, value) in memory.chunks_exact_mut(4).zip(values) {
                place.copy_from_slice(&value.to_le_bytes());
            }
            Ok(())
        })?;
        self.array.bind(py).call1((shape, &self.float32, memory))
    }

    fn optional<'py>(&self, py: Python<'py>, values: &[f32]) -> PyResult<Bound<'py, PyAny>> {
        if values.is_empty() {
            return Ok(py.None().into_bound(py));
        }
        self.floats(py, values, values.len())
    }

    fn findings<'py>(&self, py: Python<'py>, answer: &PredictResponse) -> PyResult<Bound<'py, PyTuple>> {
        if answer.findings.is_empty() {
            return Ok(PyTuple::empty(py));
        }
        let made = PyList::empty(py);
        for found in &answer.findings {
            let kind = named(self.kinds.bind(py), found.kind)?;
            made.append(
                self.finding
                    .bind(py)
                    .call1((kind, found.row, found.column, &found.rule))?,
            )?;
        }
        Ok(made.to_tuple())
    }
}

/// What has this number; what 0 has for one that is not known.
fn named<'py>(names: &Bound<'py, PyDict>, number: i32) -> PyResult<Bound<'py, PyAny>> {
    match names.get_item(number)? {
        Some(found) => Ok(found),
        None => names.as_any().get_item(0),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 15)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

/// An instance of which nothing is set: `object.__new__(cls)`.
fn new_instance<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    class.call_method1(intern!(class.py(), "__new__"), (class,))
}

/// `object.__setattr__`, as the class's own `__init__` does where it is frozen.
fn set<'py, T>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    value: &Bound<'py, T>,
) -> PyResult<()> {
    // SAFETY: all three are objects that are held, and the interpreter is.
    let result = unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(object.py()))
    }
}
