"""Which version a routing key gets: one hash and one arithmetic of splits for every engine, client and replay."""

from mlops.routing.hashing import MAX_HASH, key_bucket, routing_hash
from mlops.routing.proof import Proof, Recorded, SplitTable, prove, split_table
from mlops.routing.sampling import is_sampled
from mlops.routing.segments import MAX_SEGMENTS, WHOLE_BP, Segment, fits, following, layout, moved, upper_bound, whole

__all__ = [
    "MAX_HASH",
    "MAX_SEGMENTS",
    "WHOLE_BP",
    "Proof",
    "Recorded",
    "Segment",
    "SplitTable",
    "fits",
    "following",
    "is_sampled",
    "key_bucket",
    "layout",
    "moved",
    "prove",
    "routing_hash",
    "split_table",
    "upper_bound",
    "whole",
]
