//! Where everything lies in the files of the tap: docs/formats/tap.md as numbers.

/// The only format there is.
pub const FORMAT: u32 = 1;
/// What comes before the slots of a ring, or the blocks of a page.
pub const HEADER_BYTES: usize = 4096;
/// A ring begins with it.
pub const RING_MAGIC: &[u8; 8] = b"TSTAPRNG";
/// A counters page begins with it.
pub const PAGE_MAGIC: &[u8; 8] = b"TSTAPCNT";

/// Offsets in the header of a ring.
#[allow(missing_docs)]
pub mod ring {
    pub const FORMAT: usize = 8;
    pub const HEADER: usize = 12;
    pub const SLOT_BYTES: usize = 40;
    pub const MAX_PARTS: usize = 44;
    pub const SLOTS: usize = 48;
    pub const HEAD: usize = 128;
    pub const NEXT_SEQUENCE: usize = 136;
    pub const DROPPED: usize = 144;
    pub const CUT: usize = 152;
    pub const TAIL: usize = 256;
}

/// Offsets in a slot; all but the first four are those of a record's first slot.
#[allow(missing_docs)]
pub mod slot {
    pub const SEQUENCE: usize = 0;
    pub const PART: usize = 8;
    pub const PARTS: usize = 10;
    pub const SIZE: usize = 12;
    /// Where the payload goes on in the further slots of a record.
    pub const PART_END: usize = 16;
    pub const TIME: usize = 16;
    pub const EVENT_TIME: usize = 24;
    pub const PLAN_GENERATION: usize = 32;
    pub const SPLIT_GENERATION: usize = 40;
    pub const DURATIONS: usize = 48;
    pub const VERSION: usize = 96;
    pub const ROWS: usize = 100;
    pub const STATUS: usize = 104;
    pub const REASON: usize = 105;
    pub const ROLE: usize = 106;
    pub const WHY: usize = 107;
    pub const KEY_BUCKET: usize = 108;
    pub const REQUEST_ID_SIZE: usize = 109;
    pub const ROUTING_KEY_SIZE: usize = 110;
    pub const FLAGS: usize = 112;
    pub const INPUTS: usize = 114;
    pub const OUTPUTS: usize = 116;
    pub const FINDINGS: usize = 118;
    pub const BROKEN_RULES: usize = 120;
    pub const ENTITIES: usize = 124;
    pub const FINDINGS_LEFT_OUT: usize = 128;
    pub const OUTPUTS_AT: usize = 132;
    pub const ENTITIES_AT: usize = 136;
    pub const FINDINGS_AT: usize = 140;
    pub const BROKEN_RULES_AT: usize = 144;
    pub const TRACE_ID: usize = 160;
    pub const REQUEST_ID: usize = 176;
    pub const ROUTING_KEY: usize = 240;
    /// Where the payload begins in the first slot.
    pub const PAYLOAD: usize = 304;
}

/// Sizes of ids in a record.
pub const ID_BYTES: usize = 64;
/// Slots are a multiple of it.
pub const SLOT_ALIGNMENT: usize = 64;

/// Bits of a record's flags.
#[allow(missing_docs)]
pub mod flag {
    pub const EXECUTED: u16 = 1;
    pub const READ: u16 = 2;
    pub const RAN: u16 = 4;
    pub const CUT: u16 = 8;
    pub const DRAWN: u16 = 16;
}

/// Offsets in the header of a counters page, and its geometry.
#[allow(missing_docs)]
pub mod page {
    pub const FORMAT: usize = 8;
    pub const HEADER: usize = 12;
    pub const BLOCKS: usize = 32;
    pub const WRITERS: usize = 36;
    pub const BLOCK_BYTES: usize = 40;
    pub const BLOCK_HEADER_BYTES: usize = 128;
    pub const BUCKETS: usize = 256;
    pub const COLUMNS: usize = 8;
    pub const WRITER_BYTES: usize = BUCKETS * COLUMNS * 8;
}
