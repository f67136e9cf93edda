//! ModelInferRequest as its parts in the message, checked to be well formed and not yet held against a model.

use super::parameters::Parameters;
use super::wire::{Fields, Malformed, Span, Value, packed};

/// The fields of InferTensorContents, in order of their numbers from 1.
pub(super) const CONTENTS: [&str; 8] = [
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
];

/// More inputs, outputs or raw contents than any model has are counted and not kept, since an empty one takes forty times
/// as much memory as in its message. Of more names than a model has one is unknown or given twice, so that the first of
/// them suffice to refuse it for what it would be refused for anyway.
const MAX_KEPT: usize = 1 << 14;

#[derive(Debug, Default)]
pub(super) struct InferRequest {
    pub(super) model: Span,
    pub(super) version: Span,
    pub(super) id: Span,
    pub(super) parameters: Parameters,
    pub(super) inputs: Vec<InferInput>,
    pub(super) outputs: Vec<WantedOutput>,
    pub(super) raw: Vec<Span>,
    /// All of them, kept or not.
    pub(super) input_count: usize,
    pub(super) raw_count: usize,
}

#[derive(Debug, Default)]
pub(super) struct InferInput {
    pub(super) name: Span,
    pub(super) datatype: Span,
    pub(super) shape: Vec<i64>,
    pub(super) parameters: Parameters,
    pub(super) contents: Option<Box<Contents>>,
}

/// Typed contents: counted here, read once it is known that their number fits.
#[derive(Debug, Default)]
pub(super) struct Contents {
    parts: Vec<Span>,
    /// Elements in each field, by number from 1.
    pub(super) counts: [u64; CONTENTS.len()],
}

#[derive(Debug, Default)]
pub(super) struct WantedOutput {
    pub(super) name: Span,
    pub(super) parameters: Parameters,
}

impl InferRequest {
    pub(super) fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(message)?;
        let mut request = Self::default();
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Delimited(span)) => request.model = fields.text(span)?,
                (2, Value::Delimited(span)) => request.version = fields.text(span)?,
                (3, Value::Delimited(span)) => request.id = fields.text(span)?,
                (4, Value::Delimited(span)) => request.parameters.add(&fields, span)?,
                (5, Value::Delimited(span)) => {
                    let input = InferInput::parse(message, fields.within(span))?;
                    keep(&mut request.inputs, input);
                    request.input_count += 1;
                }
                (6, Value::Delimited(span)) => {
                    let output = WantedOutput::parse(message, fields.within(span))?;
                    keep(&mut request.outputs, output);
                }
                (7, Value::Delimited(span)) => {
                    keep(&mut request.raw, span);
                    request.raw_count += 1;
                }
                _ => {}
            }
        }
        request.parameters.settle(message);
        Ok(request)
    }
}

fn keep<T>(kept: &mut Vec<T>, part: T) {
    if kept.len() < MAX_KEPT {
        kept.push(part);
    }
}

impl InferInput {
    fn parse(message: &[u8], mut fields: Fields<'_>) -> Result<Self, Malformed> {
        let mut input = Self::default();
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Delimited(span)) => input.name = fields.text(span)?,
                (2, Value::Delimited(span)) => input.datatype = fields.text(span)?,
                (3, Value::Varint(size)) => input.shape.push(size.cast_signed()),
                (3, Value::Delimited(span)) => {
                    for size in packed(fields.bytes(span)) {
                        input.shape.push(size?.cast_signed());
                    }
                }
                (4, Value::Delimited(span)) => input.parameters.add(&fields, span)?,
                (5, Value::Delimited(span)) => input.contents.get_or_insert_default().add(&fields, span)?,
                _ => {}
            }
        }
        input.parameters.settle(message);
        Ok(input)
    }
}

impl WantedOutput {
    fn parse(message: &[u8], mut fields: Fields<'_>) -> Result<Self, Malformed> {
        let mut output = Self::default();
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Delimited(span)) => output.name = fields.text(span)?,
                (2, Value::Delimited(span)) => output.parameters.add(&fields, span)?,
                _ => {}
            }
        }
        output.parameters.settle(message);
        Ok(output)
    }
}

impl Contents {
    fn add(&mut self, fields: &Fields<'_>, part: Span) -> Result<(), Malformed> {
        let mut fields = fields.within(part);
        while let Some(field) = fields.next()? {
            let (number, count) = match field {
                (number @ 1..=5, Value::Varint(_)) => (number, 1),
                (number @ 1..=5, Value::Delimited(span)) => (number, count_varints(fields.bytes(span))?),
                (6, Value::Fixed32(_)) | (7, Value::Fixed64(_)) | (8, Value::Delimited(_)) => (field.0, 1),
                (6, Value::Delimited(span)) => (6, count_fixed::<4>(span)?),
                (7, Value::Delimited(span)) => (7, count_fixed::<8>(span)?),
                _ => continue,
            };
            self.counts[number as usize - 1] += count;
        }
        if !part.is_empty() {
            self.parts.push(part);
        }
        Ok(())
    }

    /// Parts that there is memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.parts.capacity()
    }

    /// Gives the elements of one of the fields 1 to 5, in order.
    pub(super) fn integers(&self, message: &[u8], number: usize, mut take: impl FnMut(u64)) {
        self.visit(message, number, |value, bytes| match value {
            Value::Varint(element) => take(element),
            _ => packed(bytes).flatten().for_each(&mut take),
        });
    }

    /// Where the elements of one of the fields 6 to 8 stand, in order; those of 6 and 7 may be many in one part.
    pub(super) fn parts(&self, message: &[u8], number: usize) -> Vec<Span> {
        let mut parts = Vec::new();
        self.visit(message, number, |value, _| match value {
            Value::Delimited(span) | Value::Fixed32(span) | Value::Fixed64(span) => parts.push(span),
            Value::Varint(_) | Value::Group => {}
        });
        parts
    }

    /// Gives what was counted of one field; all of it was found to be well formed.
    fn visit(&self, message: &[u8], number: usize, mut take: impl FnMut(Value, &[u8])) {
        let Ok(whole) = Fields::new(message) else { return };
        for part in &self.parts {
            let mut fields = whole.within(*part);
            while let Ok(Some((found, value))) = fields.next() {
                if found as usize != number {
                    continue;
                }
                match (number, value) {
                    (1..=5, Value::Varint(_)) | (6, Value::Fixed32(_)) | (7, Value::Fixed64(_)) => {
                        take(value, &[])
                    }
                    (_, Value::Delimited(span)) => take(value, fields.bytes(span)),
                    _ => {}
                }
            }
        }
    }
}

fn count_varints(bytes: &[u8]) -> Result<u64, Malformed> {
    packed(bytes).try_fold(0, |count, element| element.map(|_| count + 1))
}

fn count_fixed<const SIZE: usize>(span: Span) -> Result<u64, Malformed> {
    if span.size().is_multiple_of(SIZE) {
        Ok((span.size() / SIZE) as u64)
    } else {
        Err(Malformed)
    }
}
