//! The shared vectors: the bytes of the Python writer are the bytes of this one.

use std::path::PathBuf;

use serde_json::Value;
use tickserve_core::call::{Elements, Finding, FindingKind, Tensor, Violation};
use tickserve_core::plan::{Datatype, Policy, Role};
use tickserve_core::tap::layout::{HEADER_BYTES, ring};
use tickserve_core::tap::{Columns, Page, RingWriter, Why};

use crate::files::{Scratch, page_bytes, ring_bytes};
use crate::owned::Owned;
use crate::reader::{number, read, word};

fn vector(name: &str) -> (Value, PathBuf) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/tap");
    let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    (serde_json::from_str(&text).unwrap(), folder)
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(read).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

const DATATYPES: [Datatype; 13] = [
    Datatype::Bool,
    Datatype::Uint8,
    Datatype::Uint16,
    Datatype::Uint32,
    Datatype::Uint64,
    Datatype::Int8,
    Datatype::Int16,
    Datatype::Int32,
    Datatype::Int64,
    Datatype::Fp16,
    Datatype::Fp32,
    Datatype::Fp64,
    Datatype::Bytes,
];
const ROLES: [Role; 5] = [
    Role::Stable,
    Role::Canary,
    Role::Shadow,
    Role::Previous,
    Role::Fallback,
];
const WHYS: [Why; 5] = [Why::Split, Why::Pin, Why::Fallback, Why::Shadow, Why::Smoke];
const KINDS: [FindingKind; 5] = [
    FindingKind::Clipped,
    FindingKind::Flagged,
    FindingKind::Fallback,
    FindingKind::Stale,
    FindingKind::Defaulted,
];

fn tensor(value: &Value) -> Tensor {
    let label = value["datatype"].as_str().unwrap();
    let datatype = DATATYPES
        .into_iter()
        .find(|known| known.label() == label)
        .unwrap();
    let data = hex(&value["data"]);
    let elements = if datatype == Datatype::Bytes {
        Elements::Strings(strings(&data))
    } else {
        Elements::Numbers(data.into())
    };
    Tensor {
        datatype,
        shape: list(&value["shape"], |size| size.as_i64().unwrap()),
        elements,
    }
}

fn strings(mut data: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let size = number(data, 0);
        found.push(String::from_utf8(data[4..4 + size].to_vec()).unwrap());
        data = &data[4 + size..];
    }
    found
}

fn record(value: &Value) -> Owned {
    let number = |name: &str| value[name].as_u64().unwrap();
    let small = |name: &str| u8::try_from(number(name)).unwrap();
    let time = |name: &str| value[name].as_i64().unwrap();
    let one = |value: &Value, name: &str| value[name].as_u64().unwrap();
    Owned {
        time_unix_ns: time("time_unix_ns"),
        event_time_unix_ns: time("event_time_unix_ns"),
        plan_generation: number("plan_generation"),
        split_generation: number("split_generation"),
        durations: list(&value["durations_ns"], |each| each.as_u64().unwrap())
            .try_into()
            .unwrap(),
        version: number("version") as u32,
        rows: number("rows"),
        status: small("status"),
        reason: small("reason"),
        role: ROLES[usize::from(small("role")) - 1],
        why: WHYS[usize::from(small("why")) - 1],
        key_bucket: small("key_bucket"),
        flags: number("flags") as u16,
        request_id: text(&value["request_id"]),
        routing_key: text(&value["routing_key"]),
        trace_id: hex(&value["trace_id"]).try_into().unwrap(),
        inputs: list(&value["inputs"], tensor),
        received: None,
        outputs: list(&value["outputs"], tensor),
        entities: list(&value["entities"], text),
        findings: list(&value["findings"], |each| Finding {
            kind: KINDS[one(each, "kind") as usize - 1],
            row: one(each, "row") as u32,
            column: one(each, "column") as u32,
            rule: text(&each["rule"]),
        }),
        findings_left_out: number("findings_left_out"),
        broken_rules: list(&value["broken_rules"], |each| Violation {
            rule: text(&each["rule"]),
            policy: match each["policy"].as_str().unwrap() {
                "reject" => Policy::Reject,
                "clip" => Policy::Clip,
                "flag" => Policy::Flag,
                "fallback" => Policy::Fallback,
                other => panic!("{other}"),
            },
            times: one(each, "times"),
        }),
    }
}

fn set_word(path: &std::path::Path, at: usize, value: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&value.to_le_bytes(), at as u64).unwrap();
}

#[test]
fn the_ring_has_the_bytes_of_the_vector() {
    let (vector, folder) = vector("ring");
    let given = &vector["ring"];
    let of = |name: &str| given[name].as_u64().unwrap();
    let bytes = ring_bytes(
        &hex(&given["boot"]),
        of("ring") as u32,
        of("rings") as u32,
        of("slot_bytes") as u32,
        of("slots"),
        of("max_parts") as u32,
        of("pid"),
        of("created") as i64,
    );
    let file = Scratch::file("ring", &bytes);
    let mut writer = RingWriter::open(file.path()).unwrap();
    let mut found = Vec::new();
    for step in vector["steps"].as_array().unwrap() {
        if step.get("write").is_some() {
            record(&step["write"]).lend(|record| writer.write(record));
            continue;
        }
        // What the consumer of the vector does.
        let reading = read(&std::fs::read(file.path()).unwrap());
        assert_eq!(reading.damaged, 0);
        set_word(
            file.path(),
            ring::TAIL + 8,
            reading.records.last().unwrap().sequence + 1,
        );
        set_word(file.path(), ring::TAIL, reading.head);
        found.extend(reading.records);
    }
    let written = std::fs::read(file.path()).unwrap();
    found.extend(read(&written).records);
    let expected = std::fs::read(folder.join("ring.bin")).unwrap();
    for (at, (is, should)) in written.chunks(16).zip(expected.chunks(16)).enumerate() {
        assert_eq!(is, should, "at {}", 16 * at);
    }
    assert_eq!(written.len(), expected.len());
    let sequences: Vec<u64> = found.iter().map(|record| record.sequence).collect();
    assert_eq!(
        sequences,
        list(&vector["records"], |each| each["sequence"].as_u64().unwrap())
    );
    for (found, wanted) in found.iter().zip(vector["records"].as_array().unwrap()) {
        assert_eq!(
            found.entities,
            list(&wanted["entities"], |each| text(each).into_bytes())
        );
        let wanted_inputs = list(&wanted["inputs"], |each| {
            (hex(&each["data"]), each["is_cut"].as_bool().unwrap())
        });
        let inputs: Vec<_> = found.inputs.iter().map(|part| (part.2.clone(), part.3)).collect();
        assert_eq!(inputs, wanted_inputs);
        assert_eq!(
            found.broken_rules.len(),
            wanted["broken_rules"].as_array().unwrap().len()
        );
    }
}

#[test]
fn the_page_has_the_counts_of_the_vector() {
    let (vector, _) = vector("page");
    let given = &vector["page"];
    let of = |name: &str| given[name].as_u64().unwrap() as u32;
    let bytes = page_bytes(&hex(&given["boot"]), of("blocks"), of("writers"));
    let file = Scratch::file("page", &bytes);
    let page = Page::open(file.path()).unwrap();
    for count in vector["counts"].as_array().unwrap() {
        let of = |index: usize| count[index].as_u64().unwrap();
        let columns = list(&count[3], |each| each.as_u64().unwrap());
        let has = |column| columns.contains(&column);
        let columns = Columns {
            error: has(1),
            failure: has(2),
            violation: has(3),
            output_violation: has(4),
            over_budget: has(5),
            over_edge: has(6),
            run_over_edge: has(7),
        };
        page.count(of(0) as usize, of(1) as u32, of(2) as u8, columns);
    }
    // Beyond what there is: nothing happens.
    page.count(9, 0, 0, Columns::default());
    page.count(0, 9, 0, Columns::default());
    let written = std::fs::read(file.path()).unwrap();
    let words: std::collections::BTreeMap<String, u64> = (HEADER_BYTES..written.len())
        .step_by(8)
        .map(|at| (at.to_string(), word(&written, at)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let wanted = vector["words"].as_object().unwrap().iter();
    assert_eq!(
        words,
        wanted
            .map(|(at, count)| (at.clone(), count.as_u64().unwrap()))
            .collect()
    );
}

#[test]
fn files_that_are_none_are_refused() {
    let good = ring_bytes(&[0; 16], 0, 1, 384, 8, 4, 1, 1);
    let open = |bytes: &[u8]| RingWriter::open(Scratch::file("bad", bytes).path());
    assert!(open(&good).is_ok());
    assert!(Page::open(Scratch::file("bad", &good).path()).is_err());
    for (at, byte) in [
        (0, 0),
        (8, 2),
        (13, 0),
        (40, 1),
        (44, 9),
        (44, 0),
        (48, 7),
        (55, 255),
    ] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(open(&bad).is_err(), "byte {at}");
    }
    for size in [0, 1, 4096, 4097, good.len() - 1] {
        assert!(open(&good[..size]).is_err(), "{size} bytes");
    }
    assert!(RingWriter::open(std::path::Path::new("/nowhere/ring")).is_err());
}
