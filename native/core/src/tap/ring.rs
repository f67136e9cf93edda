//! The producer's end of a ring: writes a record where there is room and never waits for any.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::chain::Chain;
use super::fit::Fit;
use super::layout::{self, HEADER_BYTES, flag, ring, slot};
use super::map::{DamagedTap, Map};
use super::record::Record;

/// How a ring is cut into slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) slot_bytes: usize,
    pub(super) slots: u64,
    max_parts: usize,
}

/// The one producer of a ring. It allocates nothing and calls nothing of the system.
#[derive(Debug)]
pub struct RingWriter {
    map: Map,
    geometry: Geometry,
    capacity: usize,
    /// Slots published since the beginning, and the place in the ring that the next record begins at.
    head: u64,
    place: u64,
    sequence: u64,
    /// As last seen.
    tail: u64,
}

impl Geometry {
    /// Where the slot at a place lies in the file.
    pub(super) fn offset(self, place: u64) -> usize {
        HEADER_BYTES + place as usize * self.slot_bytes
    }

    pub(super) fn next(self, place: u64) -> u64 {
        if place + 1 == self.slots { 0 } else { place + 1 }
    }

    /// How many slots a payload of this size takes.
    fn parts(self, size: usize) -> usize {
        let first = self.slot_bytes - slot::PAYLOAD;
        1 + size
            .saturating_sub(first)
            .div_ceil(self.slot_bytes - slot::PART_END)
    }
}

impl RingWriter {
    /// Maps a ring that the control plane made.
    pub fn open(path: &Path) -> Result<Self, DamagedTap> {
        let map = Map::open(path)?;
        let number = |at| u32::from_le_bytes(map.copy(at)) as usize;
        let geometry = Geometry {
            slot_bytes: number(ring::SLOT_BYTES),
            slots: u64::from_le_bytes(map.copy(ring::SLOTS)),
            max_parts: number(ring::MAX_PARTS),
        };
        let Geometry {
            slot_bytes,
            slots,
            max_parts,
        } = geometry;
        let size = usize::try_from(slots)
            .ok()
            .and_then(|slots| slots.checked_mul(slot_bytes));
        let is_ring = &map.copy(0) == layout::RING_MAGIC
            && number(ring::FORMAT) == layout::FORMAT as usize
            && number(ring::HEADER) == HEADER_BYTES
            && slot_bytes.is_multiple_of(layout::SLOT_ALIGNMENT)
            && slot_bytes > slot::PAYLOAD
            && max_parts >= 1
            && max_parts <= usize::from(u16::MAX)
            && max_parts as u64 <= slots
            && size.and_then(|size| size.checked_add(HEADER_BYTES)) == Some(map.size());
        if !is_ring {
            return Err(DamagedTap::Contradicts {
                path: path.to_owned(),
                what: "ring of format 1",
            });
        }
        let load = |at| map.word(at).load(Ordering::Acquire);
        let (head, sequence, tail) = (load(ring::HEAD), load(ring::NEXT_SEQUENCE), load(ring::TAIL));
        let capacity = slot_bytes - slot::PAYLOAD + (max_parts - 1) * (slot_bytes - slot::PART_END);
        Ok(Self {
            map,
            geometry,
            capacity,
            head,
            place: head % slots,
            sequence,
            tail,
        })
    }

    /// Writes a record, or drops it and counts that where there is no room; says which.
    pub fn write(&mut self, record: &Record<'_>) -> bool {
        let fit = Fit::new(record, self.capacity);
        let parts = self.geometry.parts(fit.size);
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let has_room = self.has_room(parts as u64);
        if has_room {
            if fit.is_cut {
                self.add(ring::CUT, 1);
            }
            self.put(record, &fit, sequence, parts);
        } else {
            self.add(ring::DROPPED, 1);
        }
        self.map
            .word(ring::NEXT_SEQUENCE)
            .store(self.sequence, Ordering::Relaxed);
        if has_room {
            self.head = self.head.wrapping_add(parts as u64);
            self.place = self.head_place(parts as u64);
            self.map.word(ring::HEAD).store(self.head, Ordering::Release);
        }
        has_room
    }

    fn head_place(&self, parts: u64) -> u64 {
        let place = self.place + parts;
        if place >= self.geometry.slots {
            place - self.geometry.slots
        } else {
            place
        }
    }

    fn has_room(&mut self, parts: u64) -> bool {
        // A file that was damaged may have any number here.
        let after = self.head.wrapping_add(parts);
        let fits = |tail: u64| after.wrapping_sub(tail) <= self.geometry.slots;
        if !fits(self.tail) {
            let tail = self.map.word(ring::TAIL).load(Ordering::Acquire);
            if !fits(tail) {
                return false;
            }
            self.tail = tail;
        }
        true
    }

    fn add(&self, at: usize, by: u64) {
        crate::histogram::add(self.map.word(at), by);
    }

    fn put(&self, record: &Record<'_>, fit: &Fit, sequence: u64, parts: usize) {
        // SAFETY: this is the one producer, the slots lie between head and tail + slots, so the consumer expects nothing
        // of them until the head is stored; the borrow ends before the next one begins.
        let first = unsafe {
            self.map
                .bytes(self.geometry.offset(self.place), self.geometry.slot_bytes)
        };
        let size = fit.size as u32;
        write_fixed(first, record, fit, sequence, parts as u16, size);
        // SAFETY: as above.
        let mut chain = unsafe { Chain::new(&self.map, self.geometry, self.place) };
        chain.write(record, &fit.kept);
    }
}

/// The first slot up to its payload.
fn write_fixed(slot: &mut [u8], record: &Record<'_>, fit: &Fit, sequence: u64, parts: u16, size: u32) {
    let Some(fixed) = slot.first_chunk_mut::<{ slot::PAYLOAD }>() else {
        return;
    };
    let mut put = |at: usize, bytes: &[u8]| fixed[at..at + bytes.len()].copy_from_slice(bytes);
    let count = |is_kept: bool, count: usize| if is_kept { count as u16 } else { 0 };
    put(slot::SEQUENCE, &sequence.to_le_bytes());
    put(slot::PART, &0_u16.to_le_bytes());
    put(slot::PARTS, &parts.to_le_bytes());
    put(slot::SIZE, &size.to_le_bytes());
    put(slot::TIME, &record.time_unix_ns.to_le_bytes());
    put(slot::EVENT_TIME, &record.event_time_unix_ns.to_le_bytes());
    put(slot::PLAN_GENERATION, &record.plan_generation.to_le_bytes());
    put(slot::SPLIT_GENERATION, &record.split_generation.to_le_bytes());
    for (stage, duration) in record.durations.stages().into_iter().enumerate() {
        put(slot::DURATIONS + 8 * stage, &duration.to_le_bytes());
    }
    put(slot::VERSION, &record.version.to_le_bytes());
    put(slot::ROWS, &narrow(record.rows).to_le_bytes());
    put(slot::STATUS, &[record.status, record.reason]);
    put(
        slot::ROLE,
        &[record.role as u8, record.why as u8, record.key_bucket],
    );
    let [request_id, routing_key] =
        [record.request_id, record.routing_key].map(|id| &id.as_bytes()[..id.len().min(layout::ID_BYTES)]);
    put(
        slot::REQUEST_ID_SIZE,
        &[request_id.len() as u8, routing_key.len() as u8, 0],
    );
    let flags = record.flags | if fit.is_cut { flag::CUT } else { 0 };
    put(slot::FLAGS, &flags.to_le_bytes());
    put(
        slot::INPUTS,
        &count(fit.kept.tensors, record.inputs.len()).to_le_bytes(),
    );
    put(
        slot::OUTPUTS,
        &count(fit.kept.tensors, record.outputs.len()).to_le_bytes(),
    );
    put(
        slot::FINDINGS,
        &count(fit.kept.findings, record.findings.len()).to_le_bytes(),
    );
    let broken_rules = count(fit.kept.broken_rules, record.broken_rules.len());
    put(slot::BROKEN_RULES, &broken_rules.to_le_bytes());
    put(slot::BROKEN_RULES + 2, &[0; 2]);
    put(slot::ENTITIES, &fit.entity_count.to_le_bytes());
    let not_here = if fit.kept.findings {
        0
    } else {
        record.findings.len() as u64
    };
    let left_out = narrow(record.findings_left_out.saturating_add(not_here));
    put(slot::FINDINGS_LEFT_OUT, &left_out.to_le_bytes());
    put(slot::OUTPUTS_AT, &(fit.outputs_at as u32).to_le_bytes());
    put(slot::ENTITIES_AT, &(fit.entities_at as u32).to_le_bytes());
    put(slot::FINDINGS_AT, &(fit.findings_at as u32).to_le_bytes());
    put(slot::BROKEN_RULES_AT, &(fit.broken_rules_at as u32).to_le_bytes());
    put(slot::BROKEN_RULES_AT + 4, &[0; 12]);
    put(slot::TRACE_ID, &record.trace_id);
    for (at, id) in [(slot::REQUEST_ID, request_id), (slot::ROUTING_KEY, routing_key)] {
        let (used, rest) = fixed[at..at + layout::ID_BYTES].split_at_mut(id.len());
        used.copy_from_slice(id);
        rest.fill(0);
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
