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

/// What is kept of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) tensors: bool,
    /// Before the first output took its turn, and the first input.
    pub(super) outputs: Room,
    pub(super) inputs: Room,
    pub(super) entities: bool,
    pub(super) findings: bool,
    pub(super) broken_rules: bool,
}

/// The plan of a payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub(super) kept: Kept,
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

impl Kept {
    const WHOLE: Self = Self {
        tensors: true,
        outputs: Room::UNBOUNDED,
        inputs: Room::UNBOUNDED,
        entities: true,
        findings: true,
        broken_rules: true,
    };
}

impl Fit {
    /// Plans a record for a payload of at most `capacity` bytes.
    pub(super) fn new(record: &Record<'_>, capacity: usize) -> Self {
        let sizes = Sizes::of(record);
        let size = sizes.inputs + sizes.outputs + sizes.entities + sizes.findings + sizes.broken_rules;
        if size > capacity {
            return Self::cut(record, sizes, capacity);
        }
        Self::placed(Kept::WHOLE, false, sizes)
    }

    /// Lets the parts take their turns in the order that the format says.
    #[cold]
    fn cut(record: &Record<'_>, mut sizes: Sizes, capacity: usize) -> Self {
        let tensors = record.inputs.iter().chain(record.outputs);
        let mut room = Room(capacity);
        let mut kept = Kept::WHOLE;
        kept.tensors = room.take(tensors.map(head_size).sum());
        kept.broken_rules = room.take(sizes.broken_rules);
        kept.findings = room.take(sizes.findings);
        let stored = |room: &mut Room, (tensor, elements): (&Tensor, &Elements)| {
            let size = filled(data_size(elements));
            head_size(tensor) + if room.take(size) { size } else { 0 }
        };
        (sizes.outputs, sizes.inputs) = (0, 0);
        kept.outputs = room;
        if kept.tensors {
            sizes.outputs = record.outputs().map(|each| stored(&mut room, each)).sum();
        }
        kept.inputs = room;
        if kept.tensors {
            sizes.inputs = record.inputs().map(|each| stored(&mut room, each)).sum();
        }
        kept.entities = room.take(sizes.entities);
        if !kept.entities {
            (sizes.entities, sizes.entity_count) = (0, 0);
        }
        if !kept.findings {
            sizes.findings = 0;
        }
        if !kept.broken_rules {
            sizes.broken_rules = 0;
        }
        Self::placed(kept, true, sizes)
    }

    /// One part after the other.
    fn placed(kept: Kept, is_cut: bool, sizes: Sizes) -> Self {
        let outputs_at = sizes.inputs;
        let entities_at = outputs_at + sizes.outputs;
        let findings_at = entities_at + sizes.entities;
        let broken_rules_at = findings_at + sizes.findings;
        Self {
            kept,
            is_cut,
            outputs_at,
            entities_at,
            findings_at,
            broken_rules_at,
            size: broken_rules_at + sizes.broken_rules,
            entity_count: sizes.entity_count,
        }
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
