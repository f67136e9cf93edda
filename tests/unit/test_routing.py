"""Routing: the hash that every implementation must compute, and the segment that it chooses."""

import hashlib

from mlops.routing import MAX_HASH, routing_hash


def test_hash_is_the_documented_one() -> None:
    assert routing_hash(b"", b"") == int.from_bytes(hashlib.sha256(b"\0").digest()[:8], "big")
    # A vector for other implementations: SHA-256("salt" 0x00 "SPY").
    assert routing_hash(b"salt", b"SPY") == int(hashlib.sha256(b"salt\0SPY").hexdigest()[:16], 16)
    assert 0 <= routing_hash(b"salt", b"QQQ") <= MAX_HASH


def test_salt_and_key_do_not_run_together() -> None:
    assert routing_hash(b"a", b"bc") != routing_hash(b"ab", b"c")
