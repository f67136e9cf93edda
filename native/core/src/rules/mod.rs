//! Rules of one version: what its inputs and outputs must be. The meaning is that of mlops/package/rules.py.
//!
//! A check first screens all elements in one pass without allocating, and looks closer only where something is amiss.

mod input;
mod output;

pub use self::input::InputChecks;
pub use self::output::OutputChecks;
use crate::call::{Elements, Findings, Tensor};
use crate::plan::{Policy, VersionPlan};
use crate::refusal::Refusal;
use crate::texts::{Name, Texts};

/// Counts an output rule that keeps the answer from leaving; the refusal to answer with.
pub(crate) fn withheld(
    version: &VersionPlan,
    findings: &mut Findings,
    rule: &str,
    policy: Policy,
    at: &str,
    texts: &Texts,
) -> Refusal {
    findings.count(rule, policy, 1);
    let (version, model) = (&version.version, &version.model);
    texts.refuse(
        Name::OutputRule,
        at,
        &[
            ("rule", rule.into()),
            ("version", version.into()),
            ("model", model.into()),
        ],
    )
}

/// The bytes of a tensor's numbers; none where its elements are text.
pub(crate) fn numbers(tensor: &Tensor) -> &[u8] {
    match &tensor.elements {
        Elements::Numbers(data) => data,
        Elements::Strings(_) => &[],
    }
}

/// The number of elements in each row: those of one index of the first dimension, or all.
fn row_width(count: usize, tensor: &Tensor) -> usize {
    let rows = tensor
        .shape
        .first()
        .map_or(1, |rows| rows.unsigned_abs() as usize);
    (count / rows.max(1)).max(1)
}
