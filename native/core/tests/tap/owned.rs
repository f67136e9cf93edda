//! Records that own what they hold, and rings in a folder of the test's own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tickserve_core::call::{Elements, Finding, Tensor, Violation};
use tickserve_core::counters::Durations;
use tickserve_core::plan::Role;
use tickserve_core::tap::layout::{self, HEADER_BYTES};
use tickserve_core::tap::{Entities, Id, Record, Why};

#[derive(Clone, Debug)]
pub struct Owned {
    pub time_unix_ns: i64,
    pub event_time_unix_ns: i64,
    pub plan_generation: u64,
    pub split_generation: u64,
    pub durations: [u64; 6],
    pub version: u32,
    pub rows: u64,
    pub status: u8,
    pub reason: u8,
    pub role: Role,
    pub why: Why,
    pub key_bucket: u8,
    pub flags: u16,
    pub request_id: String,
    pub routing_key: String,
    pub trace_id: [u8; 16],
    pub inputs: Vec<Tensor>,
    pub received: Option<Elements>,
    pub outputs: Vec<Tensor>,
    /// None of them with a comma in it, and not one that is empty alone.
    pub entities: Vec<String>,
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
    pub broken_rules: Vec<Violation>,
}

impl Owned {
    pub fn lend<T>(&self, take: impl FnOnce(&Record<'_>) -> T) -> T {
        let [wait, decode, validate_input, run, validate_output, encode] = self.durations;
        let entities = self.entities.join(",");
        take(&Record {
            time_unix_ns: self.time_unix_ns,
            event_time_unix_ns: self.event_time_unix_ns,
            plan_generation: self.plan_generation,
            split_generation: self.split_generation,
            durations: Durations {
                wait,
                decode,
                validate_input,
                run,
                validate_output,
                encode,
            },
            version: self.version,
            rows: self.rows,
            status: self.status,
            reason: self.reason,
            role: self.role,
            why: self.why,
            key_bucket: self.key_bucket,
            flags: self.flags,
            request_id: &Id::new(&self.request_id),
            routing_key: &Id::new(&self.routing_key),
            trace_id: self.trace_id,
            inputs: &self.inputs,
            received: self.received.as_ref(),
            outputs: &self.outputs,
            entities: if self.entities.is_empty() {
                Entities::None
            } else {
                Entities::Commas(&entities)
            },
            findings: &self.findings,
            findings_left_out: self.findings_left_out,
            broken_rules: &self.broken_rules,
        })
    }
}

/// A file that goes with the test.
pub struct Scratch(pub PathBuf);

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    pub fn file(name: &str, content: &[u8]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tap-{}-{number}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    /// An empty ring.
    pub fn ring(slot_bytes: u32, slots: u64, max_parts: u32) -> Self {
        Self::file(
            "ring",
            &ring_bytes(&[0; 16], 0, 1, slot_bytes, slots, max_parts, 1, 1),
        )
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[allow(clippy::too_many_arguments)]
pub fn ring_bytes(
    boot: &[u8],
    ring: u32,
    rings: u32,
    slot_bytes: u32,
    slots: u64,
    max_parts: u32,
    pid: u64,
    created: i64,
) -> Vec<u8> {
    let mut bytes = layout::RING_MAGIC.to_vec();
    for number in [layout::FORMAT, HEADER_BYTES as u32] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(boot);
    for number in [ring, rings, slot_bytes, max_parts] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(slots.to_le_bytes());
    bytes.extend(pid.to_le_bytes());
    bytes.extend(created.to_le_bytes());
    bytes.resize(HEADER_BYTES + slot_bytes as usize * slots as usize, 0);
    bytes
}
