//! Which version a routing key gets: one hash for every engine, client and replay.

use sha2::{Digest, Sha256};

use crate::plan::Segment;

/// Where a routing key falls under one salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Place {
    /// The first 8 bytes, big-endian, of SHA-256(salt + 0x00 + key).
    pub hash: u64,
    /// The byte after them: the key bucket that counts are kept by.
    pub bucket: u8,
}

/// The place of a key.
pub fn place(salt: &[u8], key: &[u8]) -> Place {
    let digest = Sha256::new()
        .chain_update(salt)
        .chain_update([0])
        .chain_update(key)
        .finalize();
    let mut hash = [0; 8];
    hash.copy_from_slice(&digest[..8]);
    Place {
        hash: u64::from_be_bytes(hash),
        bucket: digest[8],
    }
}

/// The index of the segment that holds a hash: the first whose upper bound is not below it.
pub fn segment(segments: &[Segment], hash: u64) -> Option<usize> {
    segments.iter().position(|segment| hash <= segment.upper_bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Role;

    #[test]
    fn places_are_those_of_the_reference() {
        // mlops.routing.routing_hash, and byte 9 of the same SHA-256.
        assert_eq!(
            place(b"salt", b"key"),
            Place {
                hash: 0x6e5d6c6f47d14756,
                bucket: 0x92
            }
        );
    }

    #[test]
    fn bounds_are_inclusive() {
        let part = |upper_bound, version: &str| Segment {
            upper_bound,
            version: version.into(),
            role: Role::Stable,
        };
        let segments = [part(9, "1"), part(9, "2"), part(u64::MAX, "3")];
        assert_eq!(
            [0, 9, 10, u64::MAX].map(|hash| segment(&segments, hash)),
            [Some(0), Some(0), Some(2), Some(2)]
        );
        assert_eq!(segment(&segments[..1], 10), None);
    }
}
