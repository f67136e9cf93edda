//! Tensors across the boundary: (datatype, shape, elements), the elements as bytes, or as texts for BYTES.

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use tickserve_core::call::{Elements, Tensor};
use tickserve_core::plan::Datatype;

use crate::plan::{datatype, datatype_name};

/// A tensor as Python gives it.
pub type Given = (String, Vec<i64>, GivenElements);

/// A tensor as Python gets it.
pub type Written<'py> = (&'static str, Vec<i64>, Bound<'py, PyAny>);

/// Numbers row-major and little-endian, or texts.
#[derive(FromPyObject)]
pub enum GivenElements {
    Numbers(Vec<u8>),
    Strings(Vec<String>),
}

/// Reads one tensor; its elements must be as many as its shape says.
pub fn read((name, shape, elements): Given) -> PyResult<Tensor> {
    let datatype = datatype(&name)?;
    let elements = match elements {
        GivenElements::Numbers(data) if datatype != Datatype::Bytes => Elements::Numbers(Bytes::from(data)),
        GivenElements::Strings(texts) if datatype == Datatype::Bytes => Elements::Strings(texts),
        GivenElements::Strings(texts) if texts.is_empty() => Elements::Numbers(Bytes::new()),
        _ => return Err(PyValueError::new_err(format!("elements are not those of {name}"))),
    };
    Ok(Tensor {
        datatype,
        shape,
        elements,
    })
}

/// Hands one tensor to Python.
pub fn write<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Written<'py>> {
    let elements = match &tensor.elements {
        Elements::Numbers(data) => PyBytes::new(py, data).into_any(),
        Elements::Strings(texts) => PyList::new(py, texts)?.into_any(),
    };
    Ok((datatype_name(tensor.datatype), tensor.shape.clone(), elements))
}
