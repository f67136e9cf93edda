"""The Python writer and reader hold to the shared vectors, as the Rust ones do in native/core/tests/tap.rs."""

import json
from pathlib import Path

from mlops.tap import Identity, PageOwner, RingReader, RingWriter, Tallier, create_page
from tests.support.tap import from_json, given_ring
from tests.vectors.tap.generate import run, without_process, words_that_count

VECTORS = Path(__file__).parents[2] / "vectors" / "tap"


def test_ring_has_the_bytes_of_the_vector_and_reads_as_it_says(tmp_path: Path) -> None:
    vector = json.loads((VECTORS / "ring.json").read_text())
    path = given_ring(tmp_path / "ring", vector["ring"])
    writer, reader, found = RingWriter(path), RingReader(path), []
    for step in vector["steps"]:
        run(step, writer, reader, found)
    found += reader.read().records
    assert found == [(each.pop("sequence"), from_json(each)) for each in vector["records"]]
    assert without_process(path.read_bytes()) == (VECTORS / "ring.bin").read_bytes()
    assert (writer.dropped, writer.cut, writer.written) == (2, 7, len(found))


def test_page_has_the_counts_of_the_vector(tmp_path: Path) -> None:
    vector = json.loads((VECTORS / "page.json").read_text())
    page = vector["page"]
    create_page(tmp_path / "page", bytes.fromhex(page["boot"]), page["writers"], page["blocks"])
    owner = PageOwner(tmp_path / "page")
    owner.place([Identity(3, 1, 1000, 0), Identity(4, 2, 0, 2000)])
    for writer, block, bucket, columns in vector["counts"]:
        Tallier(owner, writer).count(block, bucket, columns)
    assert words_that_count((tmp_path / "page").read_bytes()) == vector["words"]
