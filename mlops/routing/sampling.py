"""Which requests a shadow gets: a sample by the request id, the same one on every engine and in a replay."""

from mlops.routing.hashing import routing_hash
from mlops.routing.segments import WHOLE_BP, upper_bound


def is_sampled(salt: bytes, request_id: bytes, fraction_bp: int) -> bool:
    """Whether a request is among the `fraction_bp` / 10,000 of all, by its id and a salt that no split has.

    >>> is_sampled(b"shadow", b"request-1", 10_000), is_sampled(b"shadow", b"request-1", 0)
    (True, False)
    """
    return fraction_bp >= WHOLE_BP or routing_hash(salt, request_id) <= upper_bound(fraction_bp)
