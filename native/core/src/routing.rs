//! Which version a routing key gets: one hash for every engine, client and replay.

use sha2::{Digest, Sha256, compress256};

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
    let [first, second, third] = leading_words(salt, key);
    Place {
        hash: u64::from(first) << 32 | u64::from(second),
        bucket: third.to_be_bytes()[0],
    }
}

/// The first words of SHA-256(salt + 0x00 + key), big-endian.
fn leading_words(salt: &[u8], key: &[u8]) -> [u32; 3] {
    // What a block of SHA-256 holds beside the length and the bit that ends the message. Nearly every key fits, and one
    // block without the digest's own buffer takes half of the time.
    const ROOM: usize = 55;
    let size = salt.len() + 1 + key.len();
    if size > ROOM {
        let whole = Sha256::new()
            .chain_update(salt)
            .chain_update([0])
            .chain_update(key)
            .finalize();
        return std::array::from_fn(|word| {
            u32::from_be_bytes(std::array::from_fn(|byte| whole[4 * word + byte]))
        });
    }
    let mut block = [0; 64];
    block[..salt.len()].copy_from_slice(salt);
    block[salt.len() + 1..size].copy_from_slice(key);
    block[size] = 0x80;
    block[56..].copy_from_slice(&(8 * size as u64).to_be_bytes());
    let mut state = INITIAL;
    compress256(&mut state, &[block.into()]);
    [state[0], state[1], state[2]]
}

/// The state that SHA-256 begins with (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// All of the keys, in the units that shares are given in.
const WHOLE_BP: u32 = 10_000;

/// Whether a request is among the `fraction_bp` / 10,000 of all that a shadow gets, by its id and the shadow's salt.
pub fn is_sampled(salt: &[u8], request_id: &[u8], fraction_bp: u32) -> bool {
    // All need no hash. A share of n / 10,000 ends below n x 2^64 / 10,000, as a segment does.
    fraction_bp >= WHOLE_BP
        || u128::from(place(salt, request_id).hash) < (u128::from(fraction_bp) << 64) / u128::from(WHOLE_BP)
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
    fn places_are_those_of_the_digest_whatever_the_sizes() {
        for salt_size in 0..70 {
            for key_size in 0..70 {
                let (salt, key) = (vec![0xa5; salt_size], vec![0x17; key_size]);
                let whole = Sha256::digest([&salt[..], &[0], &key].concat());
                let hash = u64::from_be_bytes(std::array::from_fn(|byte| whole[byte]));
                let bucket = whole[8];
                assert_eq!(
                    place(&salt, &key),
                    Place { hash, bucket },
                    "{salt_size}, {key_size}"
                );
            }
        }
    }

    fn vectors() -> serde_json::Value {
        let file =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/routing/routing.json");
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    fn hex(text: &serde_json::Value) -> Vec<u8> {
        let digits = text.as_str().unwrap().as_bytes().chunks_exact(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    }

    fn number(text: &serde_json::Value) -> u64 {
        text.as_str().unwrap().parse().unwrap()
    }

    #[test]
    fn places_are_those_of_the_shared_vectors() {
        let vectors = vectors();
        let places = vectors["places"].as_array().unwrap();
        assert!(!places.is_empty());
        for each in places {
            let found = place(&hex(&each["salt"]), &hex(&each["key"]));
            assert_eq!(found.hash, number(&each["hash"]), "{each}");
            assert_eq!(
                u64::from(found.bucket),
                each["bucket"].as_u64().unwrap(),
                "{each}"
            );
        }
    }

    #[test]
    fn versions_are_those_of_the_shared_vectors() {
        let vectors = vectors();
        let splits = vectors["splits"].as_array().unwrap();
        assert!(!splits.is_empty());
        for split in splits {
            let part = |each: &serde_json::Value| Segment {
                upper_bound: number(&each["upper_bound"]),
                version: each["version"].as_str().unwrap().to_owned(),
                role: Role::Stable,
            };
            let segments: Vec<Segment> = split["segments"].as_array().unwrap().iter().map(part).collect();
            for each in split["keys"].as_array().unwrap() {
                let hash = place(&hex(&split["salt"]), &hex(&each["key"])).hash;
                let found = segment(&segments, hash).unwrap();
                assert_eq!(
                    segments[found].version,
                    each["version"].as_str().unwrap(),
                    "{each}"
                );
            }
        }
    }

    #[test]
    fn samples_are_those_of_the_shared_vectors() {
        let vectors = vectors();
        let samples = vectors["samples"].as_array().unwrap();
        assert!(!samples.is_empty());
        for sample in samples {
            let (salt, fraction) = (hex(&sample["salt"]), sample["fraction_bp"].as_u64().unwrap());
            for each in sample["ids"].as_array().unwrap() {
                let id = each["id"].as_str().unwrap().as_bytes();
                let found = is_sampled(&salt, id, fraction as u32);
                assert_eq!(found, each["sampled"].as_bool().unwrap(), "{fraction} {each}");
            }
        }
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
