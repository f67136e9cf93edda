//! PredictRequest and PredictStreamRequest as their parts in the message, checked to be well formed.

use super::wire::{Fields, Malformed, Span, Value};

#[derive(Debug, Default)]
pub(super) struct PredictRequest {
    pub(super) model: Span,
    pub(super) version: Span,
    pub(super) id: Span,
    pub(super) routing_key: Span,
    /// Parts of whole float32; almost always one.
    pub(super) features: Vec<Span>,
    pub(super) feature_digest: Span,
    pub(super) named: Vec<(Span, f32)>,
    pub(super) rows: u32,
    pub(super) steps: u32,
    /// How many there are; what they are matters to the log alone.
    pub(super) entities: u64,
    /// One is usual, and costs no allocation.
    pub(super) first_entity: Span,
    pub(super) more_entities: Vec<Span>,
    pub(super) event_time_unix_ns: i64,
    pub(super) timeout_us: u64,
}

impl PredictRequest {
    pub(super) fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut request = Self::default();
        request.merge(Fields::new(message)?)?;
        Ok(request)
    }

    /// Reads a PredictStreamRequest: the sequence, and the request if there is one.
    pub(super) fn parse_streamed(message: &[u8]) -> Result<(u64, Option<Self>), Malformed> {
        let mut fields = Fields::new(message)?;
        let (mut sequence, mut request) = (0, None);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Varint(number)) => sequence = number,
                (2, Value::Delimited(span)) => {
                    request
                        .get_or_insert_with(Self::default)
                        .merge(fields.within(span))?;
                }
                _ => {}
            }
        }
        Ok((sequence, request))
    }

    /// The number of features.
    pub(super) fn feature_count(&self) -> u64 {
        self.features.iter().map(|part| part.size() as u64 / 4).sum()
    }

    fn merge(&mut self, mut fields: Fields<'_>) -> Result<(), Malformed> {
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Delimited(span)) => self.model = fields.text(span)?,
                (2, Value::Delimited(span)) => self.version = fields.text(span)?,
                (3, Value::Delimited(span)) => self.id = fields.text(span)?,
                (4, Value::Delimited(span)) => self.routing_key = fields.text(span)?,
                (5, Value::Fixed32(span)) => self.features.push(span),
                (5, Value::Delimited(span)) if !span.size().is_multiple_of(4) => return Err(Malformed),
                (5, Value::Delimited(span)) if span.is_empty() => {}
                (5, Value::Delimited(span)) => self.features.push(span),
                (6, Value::Delimited(span)) => self.feature_digest = span,
                (7, Value::Delimited(span)) => self.named.push(named_value(fields.within(span))?),
                // Wider numbers lose their high bits, as the reference's parser does it.
                (8, Value::Varint(number)) => self.rows = number as u32,
                (9, Value::Varint(number)) => self.steps = number as u32,
                (10, Value::Delimited(span)) => {
                    let entity = fields.text(span)?;
                    if self.entities == 0 {
                        self.first_entity = entity;
                    } else {
                        self.more_entities.push(entity);
                    }
                    self.entities += 1;
                }
                (11, Value::Fixed64(span)) => {
                    self.event_time_unix_ns = i64::from_le_bytes(fields.fixed(span)?)
                }
                (12, Value::Varint(number)) => self.timeout_us = number,
                _ => {}
            }
        }
        Ok(())
    }
}

fn named_value(mut fields: Fields<'_>) -> Result<(Span, f32), Malformed> {
    let (mut name, mut value) = (Span::default(), 0.0);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Delimited(span)) => name = fields.text(span)?,
            (2, Value::Fixed32(span)) => value = f32::from_le_bytes(fields.fixed(span)?),
            _ => {}
        }
    }
    Ok((name, value))
}
