"""The routing hash of a key, and the bucket that counts are kept by."""

import hashlib

#: The largest routing hash; the last segment of every split ends here.
MAX_HASH = (1 << 64) - 1


def key_bucket(salt: bytes, key: bytes) -> int:
    """The byte after those of the routing hash: counts are kept by it."""
    return hashlib.sha256(salt + b"\0" + key).digest()[8]


def routing_hash(salt: bytes, key: bytes) -> int:
    """The first 8 bytes, big-endian, of SHA-256(salt + 0x00 + key)."""
    return int.from_bytes(hashlib.sha256(salt + b"\0" + key).digest()[:8], "big")
