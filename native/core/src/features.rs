//! Whether the engine checks, routes and counts: always, but in a build that measures what that costs.

/// False only with the cargo feature `bench-bare`, which benchmarks build for themselves and no wheel has. Without its
/// features an engine runs whatever it is sent through the first version of the model, and counts nothing but answers.
pub(crate) const ON: bool = !cfg!(feature = "bench-bare");
