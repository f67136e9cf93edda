//! A file of the tap in memory, shared with other processes.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};
use thiserror::Error;

/// A file of the tap that cannot be used.
#[derive(Debug, Error)]
pub enum DamagedTap {
    /// The system does not give it.
    #[error("cannot map {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path} is no {what}")]
    Contradicts {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
}

/// A whole file, mapped and touched, so that no write to it has to wait for a page.
#[derive(Debug)]
pub(super) struct Map {
    map: MmapRaw,
}

impl Map {
    pub(super) fn open(path: &Path) -> Result<Self, DamagedTap> {
        let unreadable = |error| DamagedTap::Unreadable {
            path: path.to_owned(),
            error,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(unreadable)?;
        let map = MmapOptions::new().populate().map_raw(&file).map_err(unreadable)?;
        Ok(Self { map })
    }

    pub(super) fn size(&self) -> usize {
        self.map.len()
    }

    /// A copy of what is at an offset; zeros beyond the end.
    pub(super) fn copy<const SIZE: usize>(&self, at: usize) -> [u8; SIZE] {
        if at + SIZE > self.size() {
            return [0; SIZE];
        }
        // SAFETY: the range was held against the size of the mapping, which lives as long as self.
        unsafe { self.map.as_ptr().add(at).cast::<[u8; SIZE]>().read_unaligned() }
    }

    /// One word, written by one side and read by the other.
    ///
    /// # Panics
    /// Beyond the end, or not on a multiple of 8: a mistake in the program.
    pub(super) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.size());
        // SAFETY: the range was held against the size of the mapping, which is aligned to pages and lives as long as
        // self; every access to the word in this process is atomic, since `bytes` is never asked for words.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    /// The bytes of one slot.
    ///
    /// # Panics
    /// Beyond the end: a mistake in the program.
    ///
    /// # Safety
    /// Nobody in this process may reach the same bytes while they are borrowed, and no other process may expect
    /// anything of them.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn bytes(&self, at: usize, size: usize) -> &mut [u8] {
        assert!(at + size <= self.size());
        // SAFETY: the range was held against the size of the mapping, which lives as long as self; by the caller's
        // contract nobody else reaches it.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(at), size) }
    }
}
