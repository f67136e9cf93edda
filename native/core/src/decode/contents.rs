//! Contents of one input of a ModelInferRequest, raw or typed, to the elements of a tensor.

use bytes::Bytes;

use super::infer::{CONTENTS, InferInput};
use super::tensors::refuse;
use super::wire::Span;
use crate::call::Elements;
use crate::plan::{Datatype, TensorSpec};
use crate::refusal::Refusal;
use crate::texts::{Fact, Name, Texts};

/// Reads the elements of one input, whose shape is in order.
pub(super) struct Reader<'a> {
    pub(super) spec: &'a TensorSpec,
    pub(super) message: &'a Bytes,
    pub(super) count: u128,
    pub(super) shape: &'a [i64],
    pub(super) texts: &'a Texts,
}

impl Reader<'_> {
    pub(super) fn refuse(&self, text: Name, facts: &[(&str, Fact<'_>)]) -> Refusal {
        refuse(self.texts, text, self.spec, facts)
    }

    fn label(&self) -> Fact<'static> {
        self.spec.datatype.label().into()
    }

    /// The elements of raw contents.
    pub(super) fn raw(&self, part: Span) -> Result<Elements, Refusal> {
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

    /// The elements of typed contents.
    pub(super) fn typed(&self, input: &InferInput) -> Result<Elements, Refusal> {
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
