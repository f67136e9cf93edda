//! A reader as the format says, over a copy of the file: whatever the bytes are, it returns.

use tickserve_core::tap::layout::{HEADER_BYTES, ring, slot};

/// One record as found; the payload is whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub sequence: u64,
    pub fixed: Vec<u8>,
    pub inputs: Vec<Part>,
    pub outputs: Vec<Part>,
    pub entities: Vec<Vec<u8>>,
    /// Row, column, kind, rule.
    pub findings: Vec<(u32, u32, u8, Vec<u8>)>,
    /// Times, policy, rule.
    pub broken_rules: Vec<(u64, u8, Vec<u8>)>,
}

/// One tensor: datatype, shape, data, whether it was cut.
pub type Part = (u8, Vec<i64>, Vec<u8>, bool);

#[derive(Debug, Default)]
pub struct Reading {
    pub records: Vec<Found>,
    pub damaged: u64,
    pub head: u64,
}

pub fn word(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

pub fn number(file: &[u8], at: usize) -> usize {
    u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize
}

fn short(file: &[u8], at: usize) -> usize {
    u16::from_le_bytes(file[at..at + 2].try_into().unwrap()).into()
}

/// Everything from the tail to the head of a ring whose header is in order.
pub fn read(file: &[u8]) -> Reading {
    let (slot_bytes, slots) = (number(file, ring::SLOT_BYTES), word(file, ring::SLOTS));
    let (tail, head) = (word(file, ring::TAIL), word(file, ring::HEAD));
    let mut reading = Reading {
        head,
        ..Reading::default()
    };
    if head.wrapping_sub(tail) > slots {
        return reading;
    }
    let mut at = tail;
    while at < head {
        let slot = |number: u64| {
            let start = HEADER_BYTES + (number % slots) as usize * slot_bytes;
            &file[start..start + slot_bytes]
        };
        let parts = short(slot(at), slot::PARTS) as u64;
        let chain: Vec<&[u8]> = (at..head.min(at.saturating_add(parts))).map(slot).collect();
        match record(&chain, parts as usize, number(file, ring::MAX_PARTS)) {
            Some(found) => {
                reading.records.push(found);
                at += parts;
            }
            None => {
                reading.damaged += 1;
                at += 1;
            }
        }
    }
    reading
}

fn record(chain: &[&[u8]], parts: usize, max_parts: usize) -> Option<Found> {
    let first = *chain.first()?;
    if chain.len() != parts || parts > max_parts || short(first, slot::PART) != 0 {
        return None;
    }
    let (sequence, size) = (word(first, slot::SEQUENCE), number(first, slot::SIZE));
    let mut payload = first[slot::PAYLOAD..].to_vec();
    for (part, slot) in chain.iter().enumerate().skip(1) {
        let is_of_it = word(slot, slot::SEQUENCE) == sequence
            && short(slot, slot::PART) == part
            && short(slot, slot::PARTS) == parts
            && number(slot, slot::SIZE) == size;
        if !is_of_it {
            return None;
        }
        payload.extend(&slot[slot::PART_END..]);
    }
    let in_last = if parts > 1 {
        first.len() - slot::PART_END
    } else {
        payload.len() + 1
    };
    if size > payload.len() || size + in_last <= payload.len() {
        return None;
    }
    payload.truncate(size);
    let places = [
        slot::OUTPUTS_AT,
        slot::ENTITIES_AT,
        slot::FINDINGS_AT,
        slot::BROKEN_RULES_AT,
    ];
    let places: Vec<usize> = [0]
        .into_iter()
        .chain(places.map(|at| number(first, at)))
        .chain([size])
        .collect();
    let part = |index: usize| payload.get(places[index]..places[index + 1]);
    let list = |index: usize, count: usize, head: usize| items(part(index)?, count, head);
    let head = |bytes: &[u8]| (number(bytes, 0), number(bytes, 4), bytes[8]);
    Some(Found {
        sequence,
        fixed: first[..slot::PAYLOAD].to_vec(),
        inputs: tensors(part(0)?, short(first, slot::INPUTS))?,
        outputs: tensors(part(1)?, short(first, slot::OUTPUTS))?,
        entities: list(2, number(first, slot::ENTITIES), 0)?
            .into_iter()
            .map(|(_, text)| text)
            .collect(),
        findings: list(3, short(first, slot::FINDINGS), 12)?
            .into_iter()
            .map(|(bytes, rule)| {
                let (row, column, kind) = head(&bytes);
                (row as u32, column as u32, kind, rule)
            })
            .collect(),
        broken_rules: list(4, short(first, slot::BROKEN_RULES), 12)?
            .into_iter()
            .map(|(bytes, rule)| (word(&bytes, 0), bytes[8], rule))
            .collect(),
    })
}

fn tensors(mut bytes: &[u8], count: usize) -> Option<Vec<Part>> {
    let mut found = Vec::new();
    for _ in 0..count {
        let (head, rest) = bytes.split_at_checked(8)?;
        let (size, rank) = (number(head, 0), usize::from(head[5]));
        let (shape, rest) = rest.split_at_checked(8 * rank)?;
        let (data, rest) = rest.split_at_checked(size.checked_next_multiple_of(8)?)?;
        let shape = shape
            .chunks_exact(8)
            .map(|size| word(size, 0).cast_signed())
            .collect();
        found.push((head[4], shape, data[..size].to_vec(), head[6] == 1));
        bytes = rest;
    }
    bytes.is_empty().then_some(found)
}

fn items(mut bytes: &[u8], count: usize, head: usize) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let (mut found, whole) = (Vec::new(), bytes.len());
    for _ in 0..count {
        let (start, rest) = bytes.split_at_checked(head + 4)?;
        let (text, rest) = rest.split_at_checked(number(start, head))?;
        found.push((start[..head].to_vec(), text.to_vec()));
        bytes = rest;
    }
    ((whole - bytes.len()).next_multiple_of(8) == whole).then_some(found)
}
