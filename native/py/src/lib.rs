//! The native engine as Python sees it.

mod plan;

use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule]
fn tickserve_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PLAN_FORMAT", tickserve_core::plan::PLAN_FORMAT)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
