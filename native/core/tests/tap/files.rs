//! Rings and pages in files of the test's own, as the control plane makes them.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tickserve_core::tap::layout::{self, HEADER_BYTES, page};

/// A file on tmpfs, where the server has its own; it goes with the test.
pub struct Scratch(pub PathBuf);

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    pub fn file(name: &str, content: &[u8]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new("/dev/shm").join(format!("tap-{}-{number}-{name}", std::process::id()));
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

    /// An empty page.
    pub fn page(blocks: u32, writers: u32) -> Self {
        Self::file("page", &page_bytes(&[0; 16], blocks, writers))
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

pub fn page_bytes(boot: &[u8], blocks: u32, writers: u32) -> Vec<u8> {
    let block_bytes = (page::BLOCK_HEADER_BYTES + writers as usize * page::WRITER_BYTES) as u32;
    let mut bytes = layout::PAGE_MAGIC.to_vec();
    for number in [layout::FORMAT, HEADER_BYTES as u32] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(boot);
    for number in [blocks, writers, block_bytes, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.resize(HEADER_BYTES + (blocks * block_bytes) as usize, 0);
    bytes
}
