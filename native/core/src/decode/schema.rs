//! What requests to one version are held against: its schema, with what follows from it worked out once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::plan::{Datatype, TensorSpec, VersionPlan};
use crate::refusal::Refusal;
use crate::texts::{Name, Texts};

/// The schema of one version.
#[derive(Debug)]
pub struct Schema {
    pub(super) version: Arc<VersionPlan>,
    /// The column of each feature.
    pub(super) columns: HashMap<String, usize>,
    /// Whether Prediction serves the model.
    pub(super) features: Option<FeatureShape>,
}

/// The one FP32 tensor of a model that Prediction serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FeatureShape {
    /// None where there is no dimension of steps; Some(-1) where any number is taken.
    pub(super) steps: Option<i64>,
    pub(super) width: i64,
}

impl Schema {
    /// Compiles the schema of a version.
    pub fn new(version: Arc<VersionPlan>) -> Self {
        let named = version
            .feature_names
            .iter()
            .cloned()
            .enumerate()
            .map(|(column, name)| (name, column));
        Self {
            columns: named.collect(),
            features: features(&version),
            version,
        }
    }

    /// Refuses a feature digest that is not the version's; an empty one is no check.
    pub(super) fn check_digest(&self, digest: &[u8], field: &str, texts: &Texts) -> Result<(), Refusal> {
        let version = &self.version;
        if digest.is_empty() || digest == version.feature_digest {
            return Ok(());
        }
        if digest.len() != 32 {
            return Err(texts.refuse(Name::DigestLength, field, &[("got", digest.len().into())]));
        }
        let facts = [
            ("version", (&version.version).into()),
            ("model", (&version.model).into()),
        ];
        Err(texts.refuse(Name::FeaturesChanged, field, &facts))
    }

    /// Refuses entities that are not one for each row.
    pub(super) fn check_entities(
        &self,
        entities: u64,
        rows: u64,
        field: &str,
        texts: &Texts,
    ) -> Result<(), Refusal> {
        if entities == 0 || entities == rows {
            return Ok(());
        }
        Err(texts.refuse(
            Name::Entities,
            field,
            &[("got", entities.into()), ("rows", rows.into())],
        ))
    }

    /// Refuses more rows than the version takes.
    pub(super) fn check_rows(&self, rows: i64, field: &str, texts: &Texts) -> Result<(), Refusal> {
        let bound = self.version.limits.max_rows;
        if rows.unsigned_abs() <= bound {
            return Ok(());
        }
        let facts = [
            ("got", rows.into()),
            ("model", (&self.version.model).into()),
            ("bound", bound.into()),
        ];
        Err(texts.refuse(Name::TooManyRows, field, &facts))
    }
}

/// The names of tensors, as refusals list them.
pub(super) fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    names.join(", ")
}

/// One FP32 tensor of rows in, numbers a row out.
fn features(version: &VersionPlan) -> Option<FeatureShape> {
    let is_row_of_numbers =
        |spec: &TensorSpec| spec.datatype != Datatype::Bytes && spec.shape.first() == Some(&-1);
    let [input] = &version.inputs[..] else { return None };
    let (steps, width) = match input.shape[..] {
        [-1, width] => (None, width),
        [-1, steps, width] => (Some(steps), width),
        _ => return None,
    };
    let is_served =
        input.datatype == Datatype::Fp32 && width > 0 && version.outputs.iter().all(is_row_of_numbers);
    is_served.then_some(FeatureShape { steps, width })
}
