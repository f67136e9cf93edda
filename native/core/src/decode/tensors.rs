//! Tensors of a ModelInferRequest: names, datatypes and shapes held against the schema, then all of them read.

use bytes::Bytes;

use super::Shape;
use super::contents::Reader;
use super::infer::{InferInput, InferRequest};
use super::parameters::text;
use super::schema::{Schema, names};
use crate::call::Tensor;
use crate::plan::TensorSpec;
use crate::refusal::Refusal;
use crate::texts::{Fact, Name, Texts};

/// Dimensions that a refusal names.
const SHOWN_DIMENSIONS: usize = 16;

/// An input as found in a request: where it stands there, and its number of elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    position: usize,
    count: u128,
}

/// Holds names, datatypes and shapes of all inputs against the schema; reads no contents.
pub(super) fn shapes(
    request: &InferRequest,
    message: &[u8],
    schema: &Schema,
    texts: &Texts,
) -> Result<Shape, Refusal> {
    let (given, raw) = (request.input_count, request.raw_count);
    if raw != 0 && raw != given {
        let facts = [("got", raw.into()), ("expected", given.into())];
        return Err(texts.refuse(Name::RawCount, "raw_input_contents", &facts));
    }
    let specs = &schema.version.inputs;
    let mut inputs = Vec::with_capacity(specs.len());
    let (mut rows, mut values) = (0, 0_u128);
    for (spec, position) in specs.iter().zip(order(request, message, specs, texts)?) {
        let input = &request.inputs[position];
        input.parameters.refuse_unsupported(message, texts)?;
        let count = count(input, message, spec, texts)?;
        inputs.push(Found { position, count });
        values = values.saturating_add(count);
        if spec.shape.first() == Some(&-1) {
            let got = input.shape[0];
            if rows != 0 && got != rows {
                let facts = [
                    ("tensor", (&spec.name).into()),
                    ("got", got.into()),
                    ("expected", rows.into()),
                ];
                return Err(texts.refuse(Name::RowsDiffer, &spec.name, &facts));
            }
            rows = got;
            schema.check_rows(rows, &spec.name, texts)?;
        }
    }
    let values = u64::try_from(values).unwrap_or(u64::MAX);
    Ok(Shape {
        rows: rows.unsigned_abs().max(1),
        values,
        inputs,
    })
}

/// Reads the inputs of a request whose shapes are in order.
pub(super) fn read(
    request: &mut InferRequest,
    message: &Bytes,
    schema: &Schema,
    shape: &Shape,
    texts: &Texts,
) -> Result<Vec<Tensor>, Refusal> {
    let mut tensors = Vec::with_capacity(shape.inputs.len());
    for (spec, found) in schema.version.inputs.iter().zip(&shape.inputs) {
        let raw = request.raw.get(found.position).copied();
        let input = &mut request.inputs[found.position];
        let reader = Reader {
            spec,
            message,
            count: found.count,
            shape: &input.shape,
            texts,
        };
        let elements = match raw {
            Some(_) if input.contents.is_some() => return Err(reader.refuse(Name::RawAndTyped, &[])),
            Some(raw) => reader.raw(raw)?,
            None => reader.typed(input)?,
        };
        let shape = std::mem::take(&mut input.shape);
        tensors.push(Tensor {
            datatype: spec.datatype,
            shape,
            elements,
        });
    }
    Ok(tensors)
}

/// The position in the request of each input; refuses where one is missing, unknown or repeated.
fn order(
    request: &InferRequest,
    message: &[u8],
    specs: &[TensorSpec],
    texts: &Texts,
) -> Result<Vec<usize>, Refusal> {
    const ABSENT: usize = usize::MAX;
    let mut positions = vec![ABSENT; specs.len()];
    for (position, input) in request.inputs.iter().enumerate() {
        let name = text(message, input.name);
        let Some(index) = specs.iter().position(|spec| spec.name == name) else {
            let expected = names(specs);
            let facts = [("tensor", name.into()), ("expected", (&expected).into())];
            return Err(texts.refuse(Name::InputUnknown, name, &facts));
        };
        if positions[index] != ABSENT {
            return Err(texts.refuse(Name::InputTwice, name, &[("tensor", name.into())]));
        }
        positions[index] = position;
    }
    if let Some(index) = positions.iter().position(|position| *position == ABSENT) {
        let (name, expected) = (&specs[index].name, names(specs));
        let facts = [("tensor", name.into()), ("expected", (&expected).into())];
        return Err(texts.refuse(Name::InputMissing, name, &facts));
    }
    Ok(positions)
}

/// The number of elements of an input; refuses a datatype or shape that the schema does not allow.
fn count(input: &InferInput, message: &[u8], spec: &TensorSpec, texts: &Texts) -> Result<u128, Refusal> {
    let refuse = |text, facts: &[_]| Err(refuse(texts, text, spec, facts));
    let (got, datatype) = (&input.shape, text(message, input.datatype));
    if datatype != spec.datatype.label() {
        return refuse(
            Name::Datatype,
            &[
                ("got", datatype.into()),
                ("expected", spec.datatype.label().into()),
            ],
        );
    }
    if got.len() != spec.shape.len() {
        let shown = &got[..got.len().min(SHOWN_DIMENSIONS)];
        let expected = ("expected", (&spec.shape).into());
        return refuse(
            Name::Rank,
            &[("got", shown.into()), ("rank", spec.shape.len().into()), expected],
        );
    }
    let fits = |(size, expected): (&i64, &i64)| *size >= 0 && (size == expected || *expected == -1);
    if !got.iter().zip(&spec.shape).all(fits) {
        return refuse(
            Name::Dimension,
            &[("got", got.into()), ("expected", (&spec.shape).into())],
        );
    }
    if got.contains(&0) {
        return refuse(Name::Empty, &[("got", got.into())]);
    }
    Ok(got.iter().fold(1, |count: u128, size| {
        count.saturating_mul(size.unsigned_abs().into())
    }))
}

/// A refusal that names the tensor.
pub(super) fn refuse(texts: &Texts, text: Name, spec: &TensorSpec, facts: &[(&str, Fact<'_>)]) -> Refusal {
    let facts = [&[("tensor", (&spec.name).into())], facts].concat();
    texts.refuse(text, &spec.name, &facts)
}
