//! The counters page: counts by version, role and key bucket, in blocks that the control plane allots.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::layout::{self, HEADER_BYTES, page};
use super::map::{DamagedTap, Map};
use crate::histogram::add;

/// What is counted of one request beside that it was one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Columns {
    pub error: bool,
    pub failure: bool,
    pub violation: bool,
    pub output_violation: bool,
    pub over_budget: bool,
    pub over_edge: bool,
    pub run_over_edge: bool,
}

/// A page that the control plane made. Each row has one writer; nobody waits.
#[derive(Debug)]
pub struct Page {
    map: Map,
    blocks: usize,
    writers: usize,
    block_bytes: usize,
}

impl Page {
    /// Maps a page.
    pub fn open(path: &Path) -> Result<Self, DamagedTap> {
        let map = Map::open(path)?;
        let number = |at| u32::from_le_bytes(map.copy(at)) as usize;
        let (blocks, writers) = (number(page::BLOCKS), number(page::WRITERS));
        let block_bytes = page::BLOCK_HEADER_BYTES + writers * page::WRITER_BYTES;
        let size = blocks
            .checked_mul(block_bytes)
            .and_then(|size| size.checked_add(HEADER_BYTES));
        let is_page = &map.copy(0) == layout::PAGE_MAGIC
            && number(page::FORMAT) == layout::FORMAT as usize
            && number(page::HEADER) == HEADER_BYTES
            && number(page::BLOCK_BYTES) == block_bytes
            && size == Some(map.size());
        if !is_page {
            return Err(DamagedTap::Contradicts {
                path: path.to_owned(),
                what: "counters page of format 1",
            });
        }
        Ok(Self {
            map,
            blocks,
            writers,
            block_bytes,
        })
    }

    /// How many threads may count.
    pub fn writers(&self) -> usize {
        self.writers
    }

    /// Counts one request in a block, on the thread whose number is `writer`. What there is no row for is not counted.
    pub fn count(&self, writer: usize, block: u32, bucket: u8, columns: Columns) {
        let block = block as usize;
        if writer >= self.writers || block >= self.blocks {
            return;
        }
        let row = HEADER_BYTES
            + block * self.block_bytes
            + page::BLOCK_HEADER_BYTES
            + writer * page::WRITER_BYTES
            + usize::from(bucket) * page::COLUMNS * 8;
        let column = |number: usize| -> &AtomicU64 { self.map.word(row + 8 * number) };
        add(column(0), 1);
        let also = [
            columns.error,
            columns.failure,
            columns.violation,
            columns.output_violation,
            columns.over_budget,
            columns.over_edge,
            columns.run_over_edge,
        ];
        for (number, _) in also.into_iter().enumerate().filter(|(_, is_counted)| *is_counted) {
            add(column(1 + number), 1);
        }
    }
}
