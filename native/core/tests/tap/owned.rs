//! Records that own what they hold.

use tickserve_core::call::{Elements, Finding, Tensor, Violation};
use tickserve_core::counters::Durations;
use tickserve_core::plan::Role;
use tickserve_core::tap::{Entities, Record, Why};

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
                before: 0,
            },
            version: self.version,
            rows: self.rows,
            status: self.status,
            reason: self.reason,
            role: self.role,
            why: self.why,
            key_bucket: self.key_bucket,
            flags: self.flags,
            request_id: &self.request_id,
            routing_key: &self.routing_key,
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
