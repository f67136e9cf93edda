//! Features of a PredictRequest: counts held against the schema, then the one tensor.

use bytes::Bytes;

use super::Shape;
use super::contents::joined;
use super::parameters::text;
use super::predict::PredictRequest;
use super::schema::{FeatureShape, Schema};
use super::wire::Span;
use crate::call::{Elements, FindingKind, Findings, Tensor};
use crate::plan::Datatype;
use crate::refusal::Refusal;
use crate::texts::{Fact, Name, Texts};

/// Characters of an unknown name that a refusal repeats.
const SHOWN_CHARACTERS: usize = 64;

/// Holds everything but the values against the version.
pub(super) fn shape(
    request: &PredictRequest,
    message: &[u8],
    schema: &Schema,
    texts: &Texts,
) -> Result<Shape, Refusal> {
    let model: Fact<'_> = (&schema.version.model).into();
    let Some(expected) = schema.features else {
        return Err(texts.refuse(Name::NotOneFloatInput, "model", &[("model", model)]));
    };
    schema.check_digest(&message[request.feature_digest.range()], "feature_digest", texts)?;
    let (rows, steps) = (request.rows.max(1), request.steps.max(1));
    schema.check_rows(rows.into(), "rows", texts)?;
    schema.check_entities(request.entities, rows.into(), "entities", texts)?;
    let wanted = expected.steps.unwrap_or(1);
    if wanted != -1 && i64::from(steps) != wanted {
        let facts = [
            ("got", steps.into()),
            ("model", model),
            ("expected", wanted.into()),
        ];
        return Err(texts.refuse(Name::Steps, "steps", &facts));
    }
    let values = i128::from(rows) * i128::from(steps) * i128::from(expected.width);
    let shape = [("rows", rows.into()), ("steps", steps.into())];
    let got = request.feature_count();
    if !request.named.is_empty() {
        if got > 0 {
            return Err(texts.refuse(Name::FeaturesAndNamed, "named", &[]));
        }
        if rows != 1 || steps != 1 {
            return Err(texts.refuse(Name::NamedRows, "named", &shape));
        }
    } else if i128::from(got) != values {
        let counts = [
            ("got", got.into()),
            ("expected", values.into()),
            ("width", expected.width.into()),
        ];
        return Err(texts.refuse(Name::FeatureCount, "features", &[&counts[..], &shape].concat()));
    }
    Ok(Shape {
        rows: rows.into(),
        values: u64::try_from(values).unwrap_or(u64::MAX),
        inputs: Vec::new(),
    })
}

/// Reads the features of a request whose shape is in order.
pub(super) fn read(
    request: &PredictRequest,
    message: &Bytes,
    schema: &Schema,
    findings: &mut Findings,
    texts: &Texts,
) -> Result<Tensor, Refusal> {
    let data = match &request.named[..] {
        [] => joined(message, &request.features),
        named => by_name(named, message, schema, findings, texts)?,
    };
    let FeatureShape { steps, width } = schema.features.unwrap_or(FeatureShape {
        steps: None,
        width: 0,
    });
    let rows = i64::from(request.rows.max(1));
    let shape = match steps {
        None => vec![rows, width],
        Some(_) => vec![rows, request.steps.max(1).into(), width],
    };
    Ok(Tensor {
        datatype: Datatype::Fp32,
        shape,
        elements: Elements::Numbers(data),
    })
}

fn by_name(
    named: &[(Span, f32)],
    message: &[u8],
    schema: &Schema,
    findings: &mut Findings,
    texts: &Texts,
) -> Result<Bytes, Refusal> {
    let version = &schema.version;
    if version.feature_names.is_empty() {
        return Err(texts.refuse(
            Name::NamesNotKnown,
            "named",
            &[("model", (&version.model).into())],
        ));
    }
    let mut given = vec![None; version.feature_names.len()];
    for (span, value) in named {
        let name = text(message, *span);
        let Some(column) = schema.columns.get(name) else {
            let shown: String = name.chars().take(SHOWN_CHARACTERS).collect();
            let expected = version.feature_names.join(", ");
            let facts = [("feature", (&shown).into()), ("expected", (&expected).into())];
            return Err(texts.refuse(Name::FeatureUnknown, name, &facts));
        };
        if given[*column].replace(*value).is_some() {
            return Err(texts.refuse(Name::FeatureTwice, name, &[("feature", name.into())]));
        }
    }
    let mut data = Vec::with_capacity(4 * given.len());
    for (column, (name, value)) in version.feature_names.iter().zip(given).enumerate() {
        let value = match (value, version.input_rules.defaults.get(name)) {
            (Some(value), _) => value,
            (None, Some(default)) => {
                findings.add(FindingKind::Defaulted, 0, column, || format!("default:{name}"));
                *default as f32
            }
            (None, None) => {
                return Err(texts.refuse(Name::FeatureMissing, name, &[("feature", name.into())]));
            }
        };
        data.extend(value.to_le_bytes());
    }
    Ok(data.into())
}
