"""Writes the vectors anew with the Python writer: `python -m tests.vectors.tap.generate`, after a change of format."""

import json
import tempfile
from pathlib import Path
from typing import Any

from mlops.tap import (
    BrokenRule,
    Finding,
    Identity,
    PageOwner,
    RingReader,
    RingWriter,
    Tallier,
    Tensor,
    create_page,
)
from mlops.tap.counters import block_bytes
from mlops.tap.layout import BLOCK_HEADER_BYTES, CONSUMER_PID, HEADER_BYTES
from tests.support.tap import floats, from_json, given_ring, record, to_json

HERE = Path(__file__).parent
RING: dict[str, Any] = {
    "boot": "000102030405060708090a0b0c0d0e0f",
    "ring": 1,
    "rings": 3,
    "slot_bytes": 384,
    "slots": 12,
    "max_parts": 3,
    "pid": 4711,
    "created": 1_700_000_000_000_000_000,
}
PAGE: dict[str, Any] = {"boot": RING["boot"], "blocks": 2, "writers": 2}
COUNTS = [(0, 0, 0, ()), (1, 0, 0, (1, 2)), (0, 1, 255, (3, 4, 5)), (1, 1, 255, (6,)), (1, 1, 255, ())]


def _text(*elements: str) -> bytes:
    return b"".join(len(each.encode()).to_bytes(4, "little") + each.encode() for each in elements)


def steps() -> list[dict[str, Any]]:
    """What is written and consumed: every field, a chain, its wrap, a full ring, every way of cutting."""
    wide = floats(*range(40))
    usual = record(inputs=[floats(1.5, -2.0, 3.25)], outputs=[floats(0.25)])
    full = record(
        event_time_unix_ns=-5,
        plan_generation=(1 << 64) - 1,
        split_generation=1 << 63,
        durations_ns=((1 << 64) - 1, 0, 1, 1 << 40, 2, 3),
        version=(1 << 32) - 1,
        rows=2,
        status=13,
        reason=7,
        role=2,
        why=2,
        key_bucket=255,
        flags=1 | 2 | 4 | 16,
        request_id=b"i" * 64,
        routing_key="Schlüssel".encode(),
        inputs=[Tensor(13, (2,), _text("EURUSD", "")), Tensor(1, (3,), b"\0\1\1")],
        outputs=[Tensor(8, (), (7).to_bytes(8, "little"))],
        entities=[b"AAPL", "Müller".encode()],
        findings=[Finding(1, 0, 2, "bounds:rsi"), Finding(4, 1, 0, "max_age")],
        broken_rules=[BrokenRule("bounds:rsi", 2, 3), BrokenRule("range", 1, 1 << 40)],
        findings_left_out=9,
        trace_id=bytes(range(16, 32)),
    )
    refused = record(status=3, reason=10, flags=0, rows=0, durations_ns=(0,) * 6)
    # Two slots, three, and more than three in each of its parts.
    chain = usual._replace(inputs=[wide])
    long = usual._replace(inputs=[wide], outputs=[floats(*range(60))])
    cut_inputs = usual._replace(inputs=[floats(*range(250)), floats(1)], outputs=[wide])
    cut_lists = usual._replace(
        entities=[b"e" * 700],
        findings=[Finding(2, 1, 1, "r" * 300)] * 3,
        broken_rules=[BrokenRule("b" * 200, 3, 1)] * 2,
    )
    cut_heads = usual._replace(inputs=[Tensor(11, (1,) * 120, b"\0\0\0\0")])
    # Of two parts that do not fit together, the one whose turn is earlier stays.
    turns = [
        record(findings=(Finding(2, 1, 1, "r" * 500),), broken_rules=(BrokenRule("b" * 500, 3, 1),)),
        record(findings=(Finding(2, 1, 1, "r" * 500),), outputs=(floats(*range(120)),)),
        record(inputs=(floats(*range(120)),), outputs=(floats(*range(120)),)),
        record(inputs=(floats(*range(120)),), entities=(b"e" * 500,)),
    ]
    written = [{"write": to_json(each)} for each in (usual, full, refused, chain, long)]
    then = [{"write": to_json(each)} for each in (cut_inputs, cut_lists, cut_heads, usual, chain, long, long, usual)]
    turned = [{"write": to_json(each)} for each in (*turns, usual)]
    return [*written, {"consume": True}, *then, {"consume": True}, *turned]


def main() -> None:
    """Writes ring.json, ring.bin and page.json."""
    with tempfile.TemporaryDirectory() as scratch:
        path = given_ring(Path(scratch, "ring"), RING)
        writer, reader = RingWriter(path), RingReader(path)
        done = steps()
        found: list[Any] = []
        for step in done:
            run(step, writer, reader, found)
        found += reader.read().records
        reader.close()
        writer.close()
        (HERE / "ring.bin").write_bytes(without_process(path.read_bytes()))
        wanted = [{"sequence": sequence, **to_json(each)} for sequence, each in found]
        _write("ring.json", {"ring": RING, "steps": done, "records": wanted})

        page_path = Path(scratch, "page")
        create_page(page_path, bytes.fromhex(PAGE["boot"]), PAGE["writers"], PAGE["blocks"])
        page = PageOwner(page_path)
        page.place([Identity(3, 1, 1000, 0), Identity(4, 2, 0, 2000)])
        for writer_number, block, bucket, columns in COUNTS:
            Tallier(page, writer_number).count(block, bucket, columns)
        page.close()
        words = words_that_count(page_path.read_bytes())
        _write("page.json", {"page": PAGE, "counts": COUNTS, "words": words})


def run(step: dict[str, Any], writer: RingWriter, reader: RingReader, found: list[Any]) -> None:
    """One step of a vector; `consume` takes all that is there."""
    if "write" in step:
        writer.write(from_json(step["write"]))
    else:
        reading = reader.read()
        found += reading.records
        reader.consume(reading)


def words_that_count(page: bytes) -> dict[str, int]:
    """Every word of a page's rows that is not zero, by its offset."""
    words = memoryview(page).cast("Q")
    size = block_bytes(PAGE["writers"])
    rows = (at for at in range(HEADER_BYTES, len(page), 8) if (at - HEADER_BYTES) % size >= BLOCK_HEADER_BYTES)
    return {str(at): words[at // 8] for at in rows if words[at // 8]}


def without_process(ring: bytes) -> bytes:
    """A ring's bytes but for the consumer's process, which is another one each time."""
    at = 8 * CONSUMER_PID
    return ring[:at] + bytes(8) + ring[at + 8 :]


def _write(name: str, content: dict[str, Any]) -> None:
    (HERE / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
