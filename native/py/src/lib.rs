//! The native engine as Python sees it.

mod client;
mod client_codec;
mod client_link;
mod engine;
mod load;
mod plan;
mod tensor;

use pyo3::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The native engine of tickserve; use it through `server.engine.native`.
#[pymodule]
fn tickserve_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PLAN_FORMAT", tickserve_core::plan::PLAN_FORMAT)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<engine::NativeEngine>()?;
    module.add_class::<engine::Prepared>()?;
    module.add("CLIENT_FORMAT", client::CLIENT_FORMAT)?;
    module.add_class::<client::ClientChannel>()?;
    module.add_class::<client::ClientMethod>()?;
    module.add_class::<client::ClientStream>()?;
    module.add_class::<client_link::ClientLink>()?;
    module.add_class::<client_codec::ArrayEncoder>()?;
    module.add_class::<client_codec::AnswerDecoder>()?;
    module.add_class::<load::Load>()?;
    Ok(())
}
