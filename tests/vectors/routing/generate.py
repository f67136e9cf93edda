"""Makes the shared vectors of routing: `python -m tests.vectors.routing.generate`.

What is in them is a contract: engines, replay and the desired states of registries depend on it.
"""

import json
import random
from pathlib import Path
from typing import Any

from mlops.routing import Segment, is_sampled, key_bucket, moved, routing_hash, split_table, whole
from mlops.routing.segments import weights

FILE = Path(__file__).parent / "routing.json"
SEED = 20261126


def vectors() -> dict[str, Any]:
    """Places of keys, versions of keys under splits, how splits move, and which requests a shadow gets."""
    draw = random.Random(SEED)
    moves = list(_moves(draw))
    return {
        "places": [_place(draw.randbytes(salt), draw.randbytes(key)) for salt in (0, 4, 54, 70) for key in (0, 3, 64)],
        "splits": [_split(draw, [Segment(*each) for each in move["after"]]) for move in moves[::7]],
        "moves": moves,
        "samples": [
            _sample(draw, size, fraction) for size in (0, 9, 60) for fraction in (0, 1, 250, 5_000, 9_999, 10_000)
        ],
    }


def _place(salt: bytes, key: bytes) -> dict[str, Any]:
    # As text: JSON's numbers end at 2^53.
    return {
        "salt": salt.hex(),
        "key": key.hex(),
        "hash": str(routing_hash(salt, key)),
        "bucket": key_bucket(salt, key),
    }


def _sample(draw: random.Random, size: int, fraction_bp: int) -> dict[str, Any]:
    salt = draw.randbytes(size)
    ids = [draw.randbytes(size or 20).hex().encode()[:64] for _ in range(40)]
    return {
        "salt": salt.hex(),
        "fraction_bp": fraction_bp,
        "ids": [{"id": each.decode(), "sampled": is_sampled(salt, each, fraction_bp)} for each in ids],
    }


def _split(draw: random.Random, segments: list[Segment]) -> dict[str, Any]:
    salt = draw.randbytes(draw.randrange(20))
    table = split_table(salt, segments)
    keys = [f"key-{number}".encode() for number in range(40)]
    return {
        "salt": salt.hex(),
        "segments": [
            {"upper_bound": str(bound), "version": version}
            for bound, version in zip(table.bounds, table.versions, strict=True)
        ],
        "keys": [{"key": key.hex(), "version": table.version(key)} for key in keys],
    }


def _moves(draw: random.Random) -> Any:
    for versions in (2, 3, 5):
        segments = whole("1")
        for step in range(20):
            names = [str(number + 1) for number in range(versions)]
            if step % 5 == 4:
                names.append(str(versions + 1 + step))
            cuts = sorted(draw.sample(range(1, 10_000), len(names) - 1))
            wanted = dict(zip(names, (b - a for a, b in zip([0, *cuts], [*cuts, 10_000], strict=True)), strict=True))
            after = moved(segments, wanted)
            yield {"before": _plain(segments), "wanted": wanted, "after": _plain(after)}
            assert weights(after) == wanted
            segments = after


def _lines(entries: list[Any]) -> str:
    return ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)


def _plain(segments: Any) -> list[list[Any]]:
    return [[segment.version, segment.upto_bp] for segment in segments]


if __name__ == "__main__":
    kinds = (f'"{kind}": [\n{_lines(entries)}\n]' for kind, entries in vectors().items())
    FILE.write_text("{" + ",\n".join(kinds) + "}\n")
