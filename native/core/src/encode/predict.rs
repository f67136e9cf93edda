//! PredictResponse: every output as float32, row by row, with what the package maps of them.

use super::wire::Writer;
use crate::call::{Call, Tensor};
use crate::numbers::{number_at, with_numbers};
use crate::plan::{ColumnMapping, Datatype, Policy, Role, VersionPlan};
use crate::refusal::Refusal;
use crate::rules::{numbers, withheld};
use crate::texts::{Name, Texts};

const VALUES: u32 = 7;
const SIGNAL: u32 = 9;
const CONFIDENCE: u32 = 10;
const ROUNDED_AWAY: &str = "float32:";

/// The parts of an answer that do not depend on the request.
#[derive(Debug)]
pub(super) struct Head {
    /// Model, version, digest, role and generation.
    version: Vec<u8>,
    position_scale: f32,
    signal: Option<Mapping>,
    confidence: Option<Mapping>,
}

/// A mapping with the place of its output.
#[derive(Debug)]
struct Mapping {
    output: usize,
    column: Option<usize>,
    scale: f64,
    offset: f64,
}

impl Head {
    pub(super) fn new(version: &VersionPlan, role: Role, generation: u64, position_scale: f64) -> Self {
        let mut head = Writer::default();
        head.text(2, &version.model);
        head.text(3, &version.version);
        head.bytes(4, &version.digest);
        head.integer(5, role as u64);
        head.integer(6, generation);
        let mapping = |mapping: &Option<ColumnMapping>| {
            let mapping = mapping.as_ref()?;
            let output = version
                .outputs
                .iter()
                .position(|spec| spec.name == mapping.output)?;
            Some(Mapping {
                output,
                column: mapping.column,
                scale: mapping.scale,
                offset: mapping.offset,
            })
        };
        Self {
            version: head.0,
            position_scale: position_scale as f32,
            signal: mapping(&version.signal),
            confidence: mapping(&version.confidence),
        }
    }

    /// Appends an answer; refuses one with a finite figure that would leave as an infinity.
    pub(super) fn write(
        &self,
        answer: &mut Writer,
        version: &VersionPlan,
        call: &mut Call,
        outputs: &[Tensor],
        duration_ns: u64,
        texts: &Texts,
    ) -> Result<(), Refusal> {
        answer.text(1, &call.request_id);
        answer.0.extend_from_slice(&self.version);
        answer.integer(8, call.rows);
        answer.float(11, self.position_scale);
        for finding in &call.findings.kept {
            answer.message(12, |part| {
                part.integer(1, finding.kind as u64);
                part.integer(2, finding.row.into());
                part.integer(3, finding.column.into());
                part.text(4, &finding.rule);
            });
        }
        answer.integer(13, duration_ns);
        answer.integer(15, u64::from(call.findings.left_out as u32));
        for (spec, output) in version.outputs.iter().zip(outputs) {
            if output.datatype == Datatype::Fp64 && !are_float32(numbers(output)) {
                return Err(overflow(version, call, &spec.name, texts));
            }
        }
        write_values(answer, call.rows as usize, outputs);
        for (number, what, mapping) in [
            (SIGNAL, "signal", &self.signal),
            (CONFIDENCE, "confidence", &self.confidence),
        ] {
            let Some(mapping) = mapping else { continue };
            answer.head(number, 4 * call.rows as usize);
            for row in 0..call.rows as usize {
                let figure = outputs
                    .get(mapping.output)
                    .and_then(|output| mapping.of(output, row, call.rows as usize));
                // A column that this answer does not have.
                let Some(figure) = figure else {
                    return Err(texts.refuse(Name::Internal, "", &[]));
                };
                let Some(figure) = as_float32(figure) else {
                    return Err(overflow(version, call, what, texts));
                };
                answer.0.extend_from_slice(&figure.to_le_bytes());
            }
        }
        Ok(())
    }

    /// What an answer takes at most, findings apart.
    pub(super) fn size(&self, call: &Call, outputs: &[Tensor]) -> usize {
        let values: usize = outputs.iter().map(count).sum();
        self.version.len() + call.request_id.len() + 4 * values + 8 * call.rows as usize + 64
    }
}

impl Mapping {
    /// The figure of one row, in float64; where any value of the row is NaN, so is its maximum.
    fn of(&self, output: &Tensor, row: usize, rows: usize) -> Option<f64> {
        let width = count(output) / rows.max(1);
        let value = |column| number_at(output.datatype, numbers(output), row * width + column);
        let picked =
            match self.column {
                Some(column) if column < width => value(column),
                None if width > 0 => (1..width).map(value).fold(value(0), |one, other| {
                    if one.is_nan() || other <= one { one } else { other }
                }),
                _ => return None,
            };
        Some(self.scale * picked + self.offset)
    }
}

fn overflow(version: &VersionPlan, call: &mut Call, what: &str, texts: &Texts) -> Refusal {
    withheld(
        version,
        &mut call.findings,
        &format!("{ROUNDED_AWAY}{what}"),
        Policy::Reject,
        what,
        texts,
    )
}

fn count(output: &Tensor) -> usize {
    numbers(output).len() / output.datatype.size().unwrap_or(1)
}

/// The elements of every output, row by row.
fn write_values(answer: &mut Writer, rows: usize, outputs: &[Tensor]) {
    let size = 4 * outputs.iter().map(count).sum::<usize>();
    if size == 0 {
        return;
    }
    answer.head(VALUES, size);
    if let [output] = outputs {
        return write_floats(answer, output.datatype, numbers(output));
    }
    for row in 0..rows {
        for output in outputs {
            let width = numbers(output).len() / rows;
            write_floats(
                answer,
                output.datatype,
                &numbers(output)[row * width..(row + 1) * width],
            );
        }
    }
}

fn write_floats(answer: &mut Writer, datatype: Datatype, data: &[u8]) {
    if datatype == Datatype::Fp32 {
        return answer.0.extend_from_slice(data);
    }
    with_numbers!(datatype, data, values => values.for_each(|value| {
        answer.0.extend_from_slice(&(value as f32).to_le_bytes());
    }));
}

fn are_float32(data: &[u8]) -> bool {
    with_numbers!(Datatype::Fp64, data, values => { values }.all(|value| as_float32(value).is_some()))
}

/// None where a finite figure becomes an infinity.
fn as_float32(figure: f64) -> Option<f32> {
    let narrow = figure as f32;
    (narrow.is_finite() || !figure.is_finite()).then_some(narrow)
}
