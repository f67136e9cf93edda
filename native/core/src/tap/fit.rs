//! What of a record has room: sizes of its parts, and which are left out where they are more than a record may have.

use super::record::Record;
use crate::call::{Elements, Tensor};

/// Of one tensor before its dimensions.
pub(super) const TENSOR_HEAD: usize = 8;
/// Of one entity, finding and broken rule before its text.
pub(super) const ENTITY_HEAD: usize = 4;
pub(super) const FINDING_HEAD: usize = 16;
pub(super) const BROKEN_HEAD: usize = 16;

/// How much of the payload is still free, for parts that take their turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room(usize);

/// The plan of a payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub(super) has_tensors: bool,
    /// Before the first output took its turn, and the first input.
    pub(super) outputs: Room,
    pub(super) inputs: Room,
    pub(super) entities: bool,
    pub(super) findings: bool,
    pub(super) broken_rules: bool,
    pub(super) is_cut: bool,
    pub(super) outputs_at: usize,
    pub(super) entities_at: usize,
    pub(super) findings_at: usize,
    pub(super) broken_rules_at: usize,
    pub(super) size: usize,
    pub(super) entity_count: u32,
}

/// Sizes of the parts of a payload if nothing is cut, each filled up.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    inputs: usize,
    outputs: usize,
    entities: usize,
    findings: usize,
    broken_rules: usize,
    entity_count: u32,
}

impl Room {
    const UNBOUNDED: Self = Self(usize::MAX);

    /// Whether a part of this size still fits; then it is taken.
    pub(super) fn take(&mut self, size: usize) -> bool {
        let left = self.0.checked_sub(size);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

impl Fit {
    /// Plans a record for a payload of at most `capacity` bytes.
    pub(super) fn new(record: &Record<'_>, capacity: usize) -> Self {
        let sizes = Sizes::of(record);
        let size = sizes.inputs + sizes.outputs + sizes.entities + sizes.findings + sizes.broken_rules;
        if size > capacity {
            return Self::cut(record, sizes, capacity);
        }
        let whole = Self {
            has_tensors: true,
            outputs: Room::UNBOUNDED,
            inputs: Room::UNBOUNDED,
            entities: true,
            findings: true,
            broken_rules: true,
            is_cut: false,
            outputs_at: 0,
            entities_at: 0,
            findings_at: 0,
            broken_rules_at: 0,
            size: 0,
            entity_count: sizes.entity_count,
        };
        whole.placed(sizes)
    }

    /// Lets the parts take their turns in the order that the format says.
    #[cold]
    fn cut(record: &Record<'_>, mut sizes: Sizes, capacity: usize) -> Self {
        let heads: usize = record.inputs.iter().chain(record.outputs).map(head_size).sum();
        let mut room = Room(capacity);
        let has_tensors = room.take(heads);
        let broken_rules = room.take(sizes.broken_rules);
        let findings = room.take(sizes.findings);
        let outputs = room;
        let kept = |room: &mut Room, (tensor, elements): (&Tensor, &Elements)| {
            let size = filled(data_size(elements));
            head_size(tensor) + if room.take(size) { size } else { 0 }
        };
        (sizes.outputs, sizes.inputs) = (0, 0);
        if has_tensors {
            sizes.outputs = record.outputs().map(|each| kept(&mut room, each)).sum();
        }
        let inputs = room;
        if has_tensors {
            sizes.inputs = record.inputs().map(|each| kept(&mut room, each)).sum();
        }
        let entities = room.take(sizes.entities);
        for (is_kept, size) in [
            (entities, &mut sizes.entities),
            (findings, &mut sizes.findings),
            (broken_rules, &mut sizes.broken_rules),
        ] {
            if !is_kept {
                *size = 0;
            }
        }
        let cut = Self {
            has_tensors,
            outputs,
            inputs,
            entities,
            findings,
            broken_rules,
            is_cut: true,
            outputs_at: 0,
            entities_at: 0,
            findings_at: 0,
            broken_rules_at: 0,
            size: 0,
            entity_count: if entities { sizes.entity_count } else { 0 },
        };
        cut.placed(sizes)
    }

    fn placed(mut self, sizes: Sizes) -> Self {
        self.outputs_at = sizes.inputs;
        self.entities_at = self.outputs_at + sizes.outputs;
        self.findings_at = self.entities_at + sizes.entities;
        self.broken_rules_at = self.findings_at + sizes.findings;
        self.size = self.broken_rules_at + sizes.broken_rules;
        self
    }
}

impl Sizes {
    fn of(record: &Record<'_>) -> Self {
        let whole =
            |(tensor, elements): (&Tensor, &Elements)| head_size(tensor) + filled(data_size(elements));
        let (mut entities, mut entity_count) = (0, 0);
        record.entities.visit(|entity| {
            entities += ENTITY_HEAD + entity.len();
            entity_count += 1;
        });
        let findings = record.findings.iter();
        let findings: usize = findings.map(|finding| FINDING_HEAD + finding.rule.len()).sum();
        let broken = record.broken_rules.iter();
        let broken: usize = broken.map(|broken| BROKEN_HEAD + broken.rule.len()).sum();
        Self {
            inputs: record.inputs().map(whole).sum(),
            outputs: record.outputs().map(whole).sum(),
            entities: filled(entities),
            findings: filled(findings),
            broken_rules: filled(broken),
            entity_count,
        }
    }
}

/// Filled up to a multiple of 8.
pub(super) fn filled(size: usize) -> usize {
    size.next_multiple_of(8)
}

pub(super) fn head_size(tensor: &Tensor) -> usize {
    TENSOR_HEAD + 8 * tensor.shape.len()
}

/// Of the elements as they stand in a record.
pub(super) fn data_size(elements: &Elements) -> usize {
    match elements {
        Elements::Numbers(data) => data.len(),
        Elements::Strings(strings) => strings.iter().map(|element| 4 + element.len()).sum(),
    }
}
