//! Random records there and back, and random damage. `TICKSERVE_CASES` is the number of cases.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tickserve_core::call::{Elements, Finding, FindingKind, Tensor, Violation};
use tickserve_core::plan::{Datatype, Policy, Role};
use tickserve_core::tap::layout::{HEADER_BYTES, flag, ring, slot};
use tickserve_core::tap::{RingWriter, Why};

use crate::files::Scratch;
use crate::owned::Owned;
use crate::reader::{Found, Part, number, read, word};

fn cases() -> u32 {
    std::env::var("TICKSERVE_CASES").map_or(500, |cases| cases.parse().unwrap())
}

fn elements() -> impl Strategy<Value = (Datatype, Elements)> {
    prop_oneof![
        vec(any::<u8>(), 0..200).prop_map(|data| (Datatype::Uint8, Elements::Numbers(Bytes::from(data)))),
        vec(any::<u32>(), 0..80).prop_map(|numbers| {
            let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            (Datatype::Fp32, Elements::Numbers(data.into()))
        }),
        vec(".{0,12}", 0..8).prop_map(|texts| (Datatype::Bytes, Elements::Strings(texts))),
    ]
}

fn tensor() -> impl Strategy<Value = Tensor> {
    (elements(), vec(any::<i64>(), 0..4)).prop_map(|((datatype, elements), shape)| Tensor {
        datatype,
        shape,
        elements,
    })
}

fn finding() -> impl Strategy<Value = Finding> {
    (any::<u32>(), any::<u32>(), ".{0,20}").prop_map(|(row, column, rule)| Finding {
        kind: FindingKind::Stale,
        row,
        column,
        rule,
    })
}

fn broken() -> impl Strategy<Value = Violation> {
    (any::<u64>(), ".{0,20}").prop_map(|(times, rule)| Violation {
        rule,
        policy: Policy::Flag,
        times,
    })
}

prop_compose! {
    fn record()(
        numbers in any::<[u64; 4]>(),
        durations in any::<[u64; 6]>(),
        (version, small) in any::<(u32, [u8; 3])>(),
        ids in ("[a-zA-Z0-9]{0,64}", ".{0,16}"),
        tensors in (vec(tensor(), 0..4), vec(tensor(), 0..3)),
        entities in vec("[^,]{1,9}", 0..5),
        lists in (vec(finding(), 0..5), vec(broken(), 0..4)),
        trace_id in any::<[u8; 16]>(),
    ) -> Owned {
        Owned {
            time_unix_ns: numbers[0].cast_signed(),
            event_time_unix_ns: numbers[1].cast_signed(),
            plan_generation: numbers[2],
            split_generation: numbers[3],
            durations,
            version,
            rows: numbers[0] >> 20,
            status: small[0],
            reason: small[1],
            role: Role::Canary,
            why: Why::Pin,
            key_bucket: small[2],
            flags: flag::READ | flag::RAN,
            request_id: ids.0,
            routing_key: ids.1.chars().take(16).collect(),
            trace_id,
            inputs: tensors.0,
            received: None,
            outputs: tensors.1,
            entities,
            findings: lists.0,
            findings_left_out: u64::from(small[0]),
            broken_rules: lists.1,
        }
    }
}

fn part(tensor: &Tensor) -> Part {
    let data = match &tensor.elements {
        Elements::Numbers(data) => data.to_vec(),
        Elements::Strings(texts) => texts
            .iter()
            .flat_map(|text| {
                let size = (text.len() as u32).to_le_bytes();
                [&size[..], text.as_bytes()].concat()
            })
            .collect(),
    };
    (tensor.datatype as u8 + 1, tensor.shape.clone(), data, false)
}

fn check(found: &Found, wrote: &Owned) {
    let flags = u16::from_le_bytes([found.fixed[slot::FLAGS], found.fixed[slot::FLAGS + 1]]);
    assert_eq!(word(&found.fixed, slot::TIME), wrote.time_unix_ns.cast_unsigned());
    assert_eq!(word(&found.fixed, slot::DURATIONS + 40), wrote.durations[5]);
    assert_eq!(number(&found.fixed, slot::VERSION), wrote.version as usize);
    let id = &found.fixed[slot::REQUEST_ID..][..usize::from(found.fixed[slot::REQUEST_ID_SIZE])];
    assert_eq!(id, wrote.request_id.as_bytes());
    if flags & flag::CUT != 0 {
        // What is there is as it was written, and a tensor that is not says so.
        for (found, wrote) in found.inputs.iter().zip(&wrote.inputs) {
            let whole = part(wrote);
            assert!(*found == whole || (found.3 && found.2.is_empty() && found.1 == whole.1));
        }
        return;
    }
    assert_eq!(found.inputs, wrote.inputs.iter().map(part).collect::<Vec<_>>());
    assert_eq!(found.outputs, wrote.outputs.iter().map(part).collect::<Vec<_>>());
    let texts: Vec<Vec<u8>> = wrote
        .entities
        .iter()
        .map(|entity| entity.clone().into_bytes())
        .collect();
    assert_eq!(found.entities, texts);
    let findings: Vec<_> = wrote
        .findings
        .iter()
        .map(|each| {
            (
                each.row,
                each.column,
                each.kind as u8,
                each.rule.clone().into_bytes(),
            )
        })
        .collect();
    assert_eq!(found.findings, findings);
    let broken: Vec<_> = wrote
        .broken_rules
        .iter()
        .map(|each| (each.times, 3, each.rule.clone().into_bytes()))
        .collect();
    assert_eq!(found.broken_rules, broken);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn records_come_back_as_they_were_or_are_counted(
        records in vec((record(), any::<bool>()), 1..12),
        slots in 4_u64..24,
        max_parts in 1_u32..4,
    ) {
        let file = Scratch::ring(384, slots, max_parts);
        let mut writer = RingWriter::open(file.path()).unwrap();
        let (mut kept, mut dropped) = (Vec::new(), 0);
        let mut found = Vec::new();
        for (number, (record, consumes)) in records.iter().enumerate() {
            if record.lend(|record| writer.write(record)) {
                kept.push((number as u64, record));
            } else {
                dropped += 1;
            }
            if *consumes {
                let mut bytes = std::fs::read(file.path()).unwrap();
                let reading = read(&bytes);
                prop_assert_eq!(reading.damaged, 0);
                found.extend(reading.records);
                bytes[ring::TAIL..ring::TAIL + 8].copy_from_slice(&reading.head.to_le_bytes());
                std::os::unix::fs::FileExt::write_all_at(
                    &std::fs::OpenOptions::new().write(true).open(file.path()).unwrap(),
                    &reading.head.to_le_bytes(),
                    ring::TAIL as u64,
                ).unwrap();
            }
        }
        let bytes = std::fs::read(file.path()).unwrap();
        found.extend(read(&bytes).records);
        prop_assert_eq!(found.len(), kept.len());
        for (found, (sequence, wrote)) in found.iter().zip(&kept) {
            prop_assert_eq!(found.sequence, *sequence);
            check(found, wrote);
        }
        prop_assert_eq!(word(&bytes, ring::DROPPED), dropped);
        prop_assert_eq!(word(&bytes, ring::NEXT_SEQUENCE), records.len() as u64);
    }

    #[test]
    fn damage_is_survived_by_reader_and_writer(
        records in vec(record(), 1..6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        words in vec((0_usize..4, prop_oneof![any::<u64>(), u64::MAX - 20..=u64::MAX, 0_u64..20]), 0..3),
    ) {
        let file = Scratch::ring(384, 16, 3);
        let mut writer = RingWriter::open(file.path()).unwrap();
        for record in &records {
            record.lend(|record| writer.write(record));
        }
        let mut bytes = std::fs::read(file.path()).unwrap();
        for (at, byte) in damage {
            let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
            bytes[at] = byte;
        }
        for (index, word) in words {
            let at = [ring::HEAD, ring::NEXT_SEQUENCE, ring::DROPPED, ring::TAIL][index];
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let reading = read(&bytes);
        prop_assert!(reading.records.len() <= 16);
        // A writer that comes upon it goes on, or drops; it never writes beyond the file.
        let damaged = Scratch::file("ring", &bytes);
        let mut writer = RingWriter::open(damaged.path()).unwrap();
        for record in &records {
            record.lend(|record| writer.write(record));
        }
        prop_assert_eq!(std::fs::metadata(damaged.path()).unwrap().len(), bytes.len() as u64);
    }
}
