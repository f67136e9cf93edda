//! The payload of a record, written over the slots that it takes.

use super::fit::{Kept, Room, data_size, filled};
use super::layout::slot;
use super::map::Map;
use super::record::Record;
use super::ring::Geometry;
use crate::call::{Elements, Tensor};
use crate::plan::Policy;

/// Writes on from one slot to the next.
pub(super) struct Chain<'a> {
    map: &'a Map,
    geometry: Geometry,
    /// The place of the slot that is written, in the ring.
    place: u64,
    slot: &'a mut [u8],
    at: usize,
    /// What the further slots begin with: which record they belong to.
    start: [u8; slot::PART_END],
    part: u16,
}

impl<'a> Chain<'a> {
    /// Begins the payload in the first slot at this place, whose beginning was written.
    ///
    /// # Safety
    /// As of `Map::bytes`, for every slot that the record takes.
    pub(super) unsafe fn new(map: &'a Map, geometry: Geometry, place: u64) -> Self {
        // SAFETY: by the caller's contract.
        let slot = unsafe { map.bytes(geometry.offset(place), geometry.slot_bytes) };
        let mut start = [0; slot::PART_END];
        start.copy_from_slice(&slot[..slot::PART_END]);
        Self {
            map,
            geometry,
            place,
            slot,
            at: slot::PAYLOAD,
            start,
            part: 0,
        }
    }

    /// The whole payload.
    pub(super) fn write(&mut self, record: &Record<'_>, kept: &Kept) {
        if kept.tensors {
            let mut room = kept.inputs;
            record
                .inputs()
                .for_each(|(tensor, elements)| self.tensor(tensor, elements, &mut room));
            let mut room = kept.outputs;
            record
                .outputs()
                .for_each(|(tensor, elements)| self.tensor(tensor, elements, &mut room));
        }
        if kept.entities {
            let mut size = 0;
            record.entities.visit(|entity| {
                self.text(entity);
                size += 4 + entity.len();
            });
            self.fill(size);
        }
        if kept.findings {
            let mut size = 0;
            for finding in record.findings {
                self.put(&finding.row.to_le_bytes());
                self.put(&finding.column.to_le_bytes());
                self.put(&[finding.kind as u8, 0, 0, 0]);
                self.text(finding.rule.as_bytes());
                size += finding.rule.len();
            }
            self.fill(size);
        }
        if kept.broken_rules {
            let mut size = 0;
            for broken in record.broken_rules {
                self.put(&broken.times.to_le_bytes());
                self.put(&[policy_number(broken.policy), 0, 0, 0]);
                self.text(broken.rule.as_bytes());
                size += broken.rule.len();
            }
            self.fill(size);
        }
    }

    fn tensor(&mut self, tensor: &Tensor, elements: &Elements, room: &mut Room) {
        let size = data_size(elements);
        let is_kept = room.take(filled(size));
        let stored = if is_kept { size as u32 } else { 0 };
        let mut head = [0; 8];
        head[..4].copy_from_slice(&stored.to_le_bytes());
        head[4] = tensor.datatype as u8 + 1;
        head[5] = tensor.shape.len() as u8;
        head[6] = u8::from(!is_kept);
        self.put(&head);
        for dimension in &tensor.shape {
            self.put(&dimension.to_le_bytes());
        }
        if !is_kept {
            return;
        }
        match elements {
            Elements::Numbers(data) => self.put(data),
            Elements::Strings(strings) => strings.iter().for_each(|element| self.text(element.as_bytes())),
        }
        self.fill(size);
    }

    fn text(&mut self, text: &[u8]) {
        self.put(&(text.len() as u32).to_le_bytes());
        self.put(text);
    }

    /// Zeros after something of this size, up to a multiple of 8.
    fn fill(&mut self, size: usize) {
        self.put(&[0; 8][..filled(size) - size]);
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        if let Some(free) = self.slot.get_mut(self.at..end) {
            free.copy_from_slice(bytes);
            self.at = end;
        } else {
            self.put_over(bytes);
        }
    }

    #[cold]
    fn put_over(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.at == self.slot.len() {
                self.go_on();
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.slot.len() - self.at));
            self.slot[self.at..self.at + now.len()].copy_from_slice(now);
            self.at += now.len();
            bytes = later;
        }
    }

    fn go_on(&mut self) {
        self.part += 1;
        self.place = self.geometry.next(self.place);
        // SAFETY: by the contract of `new`; the slot before is given up.
        self.slot = unsafe {
            self.map
                .bytes(self.geometry.offset(self.place), self.geometry.slot_bytes)
        };
        self.slot[..slot::PART_END].copy_from_slice(&self.start);
        self.slot[slot::PART..slot::PARTS].copy_from_slice(&self.part.to_le_bytes());
        self.at = slot::PART_END;
    }
}

fn policy_number(policy: Policy) -> u8 {
    match policy {
        Policy::Reject => 1,
        Policy::Clip => 2,
        Policy::Flag => 3,
        Policy::Fallback => 4,
    }
}
