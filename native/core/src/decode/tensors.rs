//! Tensors of a ModelInferRequest: shapes held against the schema, then raw or typed contents to elements.

use bytes::Bytes;

use super::Shape;
use super::infer::{CONTENTS, InferInput, InferRequest};
use super::parameters::text;
use super::schema::{Schema, names};
use super::wire::Span;
use crate::call::{Elements, Tensor};
use crate::plan::{Datatype, TensorSpec};
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
    let (given, raw) = (request.inputs.len(), request.raw.len());
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

fn refuse(texts: &Texts, text: Name, spec: &TensorSpec, facts: &[(&str, Fact<'_>)]) -> Refusal {
    let facts = [&[("tensor", (&spec.name).into())], facts].concat();
    texts.refuse(text, &spec.name, &facts)
}

/// Reads the elements of one input, whose shape is in order.
struct Reader<'a> {
    spec: &'a TensorSpec,
    message: &'a Bytes,
    count: u128,
    shape: &'a [i64],
    texts: &'a Texts,
}

impl Reader<'_> {
    fn refuse(&self, text: Name, facts: &[(&str, Fact<'_>)]) -> Refusal {
        refuse(self.texts, text, self.spec, facts)
    }

    fn label(&self) -> Fact<'static> {
        self.spec.datatype.label().into()
    }

    fn raw(&self, part: Span) -> Result<Elements, Refusal> {
        let Some(size) = self.spec.datatype.size() else {
            return self.raw_strings(&self.message[part.range()]);
        };
        let expected = self.count.saturating_mul(size as u128);
        if part.size() as u128 != expected {
            let facts = [
                ("got", part.size().into()),
                ("expected", figure(expected)),
                ("datatype", self.label()),
                ("shape", self.shape.into()),
            ];
            return Err(self.refuse(Name::RawLength, &facts));
        }
        let data = self.message.slice(part.range());
        if self.spec.datatype == Datatype::Bool && data.iter().any(|byte| *byte > 1) {
            return Err(self.refuse(Name::NotBool, &[]));
        }
        Ok(Elements::Numbers(data))
    }

    fn raw_strings(&self, mut data: &[u8]) -> Result<Elements, Refusal> {
        let mut elements = Vec::new();
        while !data.is_empty() && elements.len() as u128 <= self.count {
            let split = data.split_first_chunk().and_then(|(size, rest)| {
                rest.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)
            });
            let Some((element, rest)) = split else {
                let facts = [
                    ("element", elements.len().into()),
                    ("expected", figure(self.count)),
                ];
                return Err(self.refuse(Name::RawBytes, &facts));
            };
            elements.push(element);
            data = rest;
        }
        self.check_count(elements.len() as u64, "raw_input_contents")?;
        self.strings(elements.into_iter())
    }

    fn typed(&self, input: &InferInput) -> Result<Elements, Refusal> {
        let Some(number) = contents_number(self.spec.datatype) else {
            return Err(self.refuse(Name::OnlyRaw, &[("datatype", self.label())]));
        };
        let field = CONTENTS[number - 1];
        let counts = input
            .contents
            .as_ref()
            .map(|contents| contents.counts)
            .unwrap_or_default();
        if let Some(other) = (1..)
            .zip(counts)
            .position(|(other, count)| other != number && count > 0)
        {
            let facts = [
                ("datatype", self.label()),
                ("got", CONTENTS[other].into()),
                ("field", field.into()),
            ];
            return Err(self.refuse(Name::TypedField, &facts));
        }
        self.check_count(counts[number - 1], field)?;
        let Some(contents) = &input.contents else {
            return Ok(Elements::Numbers(Bytes::new()));
        };
        match number {
            8 => self.strings(
                contents
                    .parts(self.message, 8)
                    .iter()
                    .map(|part| &self.message[part.range()]),
            ),
            6 | 7 => Ok(Elements::Numbers(joined(
                self.message,
                &contents.parts(self.message, number),
            ))),
            _ => {
                let (mut data, mut fits) = (Vec::new(), true);
                contents.integers(self.message, number, |element| {
                    fits &= put_integer(self.spec.datatype, element, &mut data);
                });
                let elements = fits.then(|| Elements::Numbers(data.into()));
                elements.ok_or_else(|| self.refuse(Name::TypedRange, &[("datatype", self.label())]))
            }
        }
    }

    fn check_count(&self, got: u64, field: &str) -> Result<(), Refusal> {
        if u128::from(got) == self.count {
            return Ok(());
        }
        let facts = [
            ("got", got.into()),
            ("field", field.into()),
            ("expected", figure(self.count)),
            ("datatype", self.label()),
            ("shape", self.shape.into()),
        ];
        Err(self.refuse(Name::TypedLength, &facts))
    }

    fn strings<'a>(&self, elements: impl Iterator<Item = &'a [u8]>) -> Result<Elements, Refusal> {
        let strings: Result<_, _> = elements
            .map(|element| std::str::from_utf8(element).map(str::to_owned))
            .collect();
        strings
            .map(Elements::Strings)
            .map_err(|_| self.refuse(Name::NotText, &[]))
    }
}

/// The elements of parts one after the other: a part of the message where they are one.
pub(super) fn joined(message: &Bytes, parts: &[Span]) -> Bytes {
    match parts {
        [part] => message.slice(part.range()),
        _ => {
            let mut data = Vec::with_capacity(parts.iter().map(|part| part.size()).sum());
            parts
                .iter()
                .for_each(|part| data.extend_from_slice(&message[part.range()]));
            data.into()
        }
    }
}

/// The number of the contents field that holds elements of a datatype; None where none does.
fn contents_number(datatype: Datatype) -> Option<usize> {
    Some(match datatype {
        Datatype::Bool => 1,
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => 2,
        Datatype::Int64 => 3,
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => 4,
        Datatype::Uint64 => 5,
        Datatype::Fp32 => 6,
        Datatype::Fp64 => 7,
        Datatype::Bytes => 8,
        Datatype::Fp16 => return None,
    })
}

fn figure(number: u128) -> Fact<'static> {
    Fact::Int(i128::try_from(number).unwrap_or(i128::MAX))
}

/// Appends an element that came as a varint; says whether the datatype can hold it.
fn put_integer(datatype: Datatype, element: u64, data: &mut Vec<u8>) -> bool {
    // The fields of narrow datatypes are of 32 bits: wider varints lose their high bits.
    let (signed, unsigned) = (element as i32, element as u32);
    let narrow = match datatype {
        Datatype::Bool => Some(u8::from(element != 0)),
        Datatype::Int8 => i8::try_from(signed).map(i8::cast_unsigned).ok(),
        Datatype::Uint8 => u8::try_from(unsigned).ok(),
        Datatype::Int16 => {
            return i16::try_from(signed)
                .map(|it| data.extend(it.to_le_bytes()))
                .is_ok();
        }
        Datatype::Uint16 => {
            return u16::try_from(unsigned)
                .map(|it| data.extend(it.to_le_bytes()))
                .is_ok();
        }
        Datatype::Int32 | Datatype::Uint32 => {
            data.extend(unsigned.to_le_bytes());
            return true;
        }
        _ => {
            data.extend(element.to_le_bytes());
            return true;
        }
    };
    data.extend(narrow);
    narrow.is_some()
}
