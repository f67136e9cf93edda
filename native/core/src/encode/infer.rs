//! ModelInferResponse with raw contents; what is the same for every answer of a version is encoded once.

use super::findings;
use super::wire::Writer;
use crate::call::{Call, Elements, Tensor};
use crate::plan::{Role, VersionPlan};

const ID: u32 = 3;
const PARAMETERS: u32 = 4;
const OUTPUTS: u32 = 5;
const SHAPE: u32 = 3;
const RAW: u32 = 6;
const INT64_PARAM: u32 = 2;
const STRING_PARAM: u32 = 3;

/// The parts of an answer that do not depend on the request.
#[derive(Debug)]
pub(super) struct Head {
    /// Model, version and parameters, these in the order of their names.
    version: Vec<u8>,
    /// Name and datatype of each output.
    outputs: Vec<Vec<u8>>,
}

impl Head {
    pub(super) fn new(version: &VersionPlan, role: Role, generation: u64) -> Self {
        let mut head = Writer::default();
        head.text(1, &version.model);
        head.text(2, &version.version);
        let digest: String = version.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        parameter(&mut head, "tickserve_digest", |value| {
            value.bytes_always(STRING_PARAM, digest.as_bytes())
        });
        parameter(&mut head, "tickserve_plan_generation", |value| {
            value.integer_always(INT64_PARAM, generation)
        });
        parameter(&mut head, "tickserve_role", |value| {
            value.bytes_always(STRING_PARAM, role.label().as_bytes())
        });
        let outputs = version.outputs.iter().map(|spec| {
            let mut output = Writer::default();
            output.text(1, &spec.name);
            output.text(2, spec.datatype.label());
            output.0
        });
        Self {
            version: head.0,
            outputs: outputs.collect(),
        }
    }

    /// Appends an answer.
    pub(super) fn write(&self, answer: &mut Writer, call: &Call, outputs: &[Tensor]) {
        answer.0.extend_from_slice(&self.version);
        for (head, output) in chosen(call, &self.outputs).zip(chosen(call, outputs)) {
            let shape_size: usize = output
                .shape
                .iter()
                .map(|size| varint_size(size.cast_unsigned()))
                .sum();
            let shape_head = if output.shape.is_empty() {
                0
            } else {
                1 + varint_size(shape_size as u64)
            };
            answer.head(OUTPUTS, head.len() + shape_head + shape_size);
            answer.0.extend_from_slice(head);
            if shape_head > 0 {
                answer.head(SHAPE, shape_size);
                output
                    .shape
                    .iter()
                    .for_each(|size| answer.varint(size.cast_unsigned()));
            }
        }
        answer.text(ID, &call.request_id);
        for output in chosen(call, outputs) {
            raw(answer, output);
        }
        if !call.findings.kept.is_empty() {
            let found = findings::json(&call.findings.kept);
            parameter(answer, "tickserve_findings", |value| {
                value.bytes_always(STRING_PARAM, found.as_bytes())
            });
        }
        if call.findings.left_out > 0 {
            let left_out = call.findings.left_out;
            parameter(answer, "tickserve_findings_left_out", |value| {
                value.integer_always(INT64_PARAM, left_out)
            });
        }
    }

    /// What an answer takes at most, findings apart.
    pub(super) fn size(&self, call: &Call, outputs: &[Tensor]) -> usize {
        let output = |output: &Tensor| 10 * output.shape.len() + 32 + contents_size(output);
        let outputs: usize = outputs.iter().map(output).sum();
        let heads: usize = self.outputs.iter().map(Vec::len).sum();
        self.version.len() + heads + outputs + call.request_id.len() + 8
    }
}

/// An answer in a stream that says no more than the id.
pub(super) fn only_id(response: &mut Writer, id: &str) {
    response.text(ID, id);
}

fn chosen<'a, T>(call: &'a Call, outputs: &'a [T]) -> impl Iterator<Item = &'a T> {
    let count = call.outputs.as_ref().map_or(outputs.len(), Vec::len);
    (0..count).filter_map(move |place| match &call.outputs {
        Some(indices) => outputs.get(indices[place]),
        None => outputs.get(place),
    })
}

fn parameter(response: &mut Writer, name: &str, write: impl FnOnce(&mut Writer)) {
    response.message(PARAMETERS, |entry| {
        entry.bytes_always(1, name.as_bytes());
        entry.message(2, write);
    });
}

fn raw(answer: &mut Writer, output: &Tensor) {
    match &output.elements {
        Elements::Numbers(data) => answer.bytes_always(RAW, data),
        Elements::Strings(strings) => {
            answer.head(RAW, contents_size(output));
            for string in strings {
                answer.0.extend_from_slice(&(string.len() as u32).to_le_bytes());
                answer.0.extend_from_slice(string.as_bytes());
            }
        }
    }
}

fn contents_size(output: &Tensor) -> usize {
    match &output.elements {
        Elements::Numbers(data) => data.len(),
        Elements::Strings(strings) => strings.iter().map(|string| 4 + string.len()).sum(),
    }
}

fn varint_size(number: u64) -> usize {
    (64 - (number | 1).leading_zeros()).div_ceil(7) as usize
}
