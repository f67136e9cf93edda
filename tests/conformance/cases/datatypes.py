"""ModelInfer with every datatype: raw, typed, at the edges of its range, and with what it cannot hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.engine import texts
from tests.conformance.answers import inferred
from tests.conformance.case import Case, Expected, refused
from tests.conformance.graphs import identity_graph
from tests.conformance.requests import INFER, Sent, infer, raw, typed
from tests.conformance.served import Version, one, tensor, version


@dataclass(frozen=True)
class Held:
    """A datatype: the field of its typed contents ("" where there is none), and three elements at its edges."""

    datatype: str
    contents: str
    edges: tuple[Any, Any, Any]

    @property
    def model(self) -> str:
        return self.datatype.lower()


DATATYPES = (
    Held("BOOL", "bool_contents", (True, False, True)),
    Held("INT8", "int_contents", (-128, 0, 127)),
    Held("INT16", "int_contents", (-(2**15), -1, 2**15 - 1)),
    Held("INT32", "int_contents", (-(2**31), -1, 2**31 - 1)),
    Held("INT64", "int64_contents", (-(2**63), -1, 2**63 - 1)),
    Held("UINT8", "uint_contents", (0, 1, 255)),
    Held("UINT16", "uint_contents", (0, 1, 2**16 - 1)),
    Held("UINT32", "uint_contents", (0, 1, 2**32 - 1)),
    Held("UINT64", "uint64_contents", (0, 2**63, 2**64 - 1)),
    Held("FP16", "", (-65504.0, 6e-8, 65504.0)),
    Held("FP32", "fp32_contents", (float(np.finfo(np.float32).min), 1e-45, float(np.finfo(np.float32).max))),
    Held("FP64", "fp64_contents", (float(np.finfo(np.float64).min), 5e-324, float(np.finfo(np.float64).max))),
    Held("BYTES", "bytes_contents", ("", "SPY", "€" * 100)),
)
VERSIONS: dict[str, Version] = {
    held.datatype: version(
        identity_graph(held.datatype),
        held.model,
        inputs=(tensor("features", held.datatype, -1, 3),),
        outputs=(tensor("values", held.datatype, -1, 3),),
        feature_names=(),
    )
    for held in DATATYPES
}
SERVED = one(*VERSIONS.values(), name="every datatype")
#: The smallest integer on either side that a type cannot hold though the field of its typed contents can.
BEYOND = {"INT8": (-129, 128), "INT16": (-(2**15) - 1, 2**15), "UINT8": (256,), "UINT16": (2**16,)}


def _case(name: str, datatype: str, sent: Sent, expected: Expected) -> Case:
    return Case(f"{datatype} {name}", SERVED, INFER, (infer(sent, model=datatype.lower()),), expected)


def _answered(datatype: str, values: list[list[Any]]) -> Expected:
    return inferred(VERSIONS[datatype], features=values)


def _refused(text: texts.Text, model: str, /, **facts: Any) -> Expected:
    return refused(text, by=f"{model.lower()}/1 stable", at="features", tensor="features", **facts)


def _edges() -> Iterator[Case]:
    for held in DATATYPES:
        row = [list(held.edges)]
        rows = [*row, row[0][::-1]]
        contents = [element.encode() for element in held.edges] if held.datatype == "BYTES" else row[0]
        yield _case("raw", held.datatype, raw(row, held.datatype), _answered(held.datatype, row))
        yield _case("raw, two rows", held.datatype, raw(rows, held.datatype), _answered(held.datatype, rows))
        if held.contents:
            sent = typed([contents], held.datatype, held.contents)
            yield _case("typed", held.datatype, sent, _answered(held.datatype, row))
        else:
            sent = typed(row, held.datatype, "fp32_contents")
            yield _case("typed", held.datatype, sent, _refused(texts.ONLY_RAW, held.datatype, datatype=held.datatype))


def _elsewhere() -> Iterator[Case]:
    """Typed contents in a field of another type."""
    for held in (each for each in DATATYPES if each.contents):
        other = "fp32_contents" if held.contents == "fp64_contents" else "fp64_contents"
        facts = {"datatype": held.datatype, "got": other, "field": held.contents}
        sent = typed([[1.0, 2.0, 3.0]], held.datatype, other)
        yield _case("typed elsewhere", held.datatype, sent, _refused(texts.TYPED_FIELD, held.datatype, **facts))


def _beyond() -> Iterator[Case]:
    contents = {held.datatype: held.contents for held in DATATYPES}
    for datatype, values in BEYOND.items():
        for value in values:
            sent = typed([[0, value, 0]], datatype, contents[datatype])
            yield _case(f"typed {value}", datatype, sent, _refused(texts.TYPED_RANGE, datatype, datatype=datatype))


def _one_byte_short() -> Iterator[Case]:
    for held in (each for each in DATATYPES if each.datatype != "BYTES"):
        sent = raw([list(held.edges)], held.datatype)
        size = len(sent.raw or b"")
        sent = raw([list(held.edges)], held.datatype, raw=(sent.raw or b"")[:-1])
        facts = {"got": size - 1, "expected": size, "datatype": held.datatype, "shape": [1, 3]}
        yield _case("raw, one byte short", held.datatype, sent, _refused(texts.RAW_LENGTH, held.datatype, **facts))


def _not_finite() -> Iterator[Case]:
    for datatype in ("FP16", "FP64"):
        facts = {"row": 0, "column": 2, "value": float("inf"), "also": ["finite:features reject"]}
        sent = raw([[0, 1, float("inf")]], datatype)
        yield _case("infinity", datatype, sent, _refused(texts.NOT_FINITE, datatype, **facts))


def _strings(count: int) -> Expected:
    facts = {"got": count, "expected": 3, "datatype": "BYTES", "shape": [1, 3], "field": "raw_input_contents"}
    return _refused(texts.TYPED_LENGTH, "BYTES", **facts)


WRONG_BYTES = (
    _case(
        "byte other than 0 and 1",
        "BOOL",
        raw([[True, False, True]], "BOOL", raw=b"\1\2\1"),
        _refused(texts.NOT_BOOL, "BOOL"),
    ),
    _case("raw, one element short", "BYTES", raw([["a", "b"]], "BYTES", shape=(1, 3)), _strings(2)),
    _case("raw, one element long", "BYTES", raw([["a", "b", "c", "d"]], "BYTES", shape=(1, 3)), _strings(4)),
    *(
        _case(
            f"raw, end inside {what}",
            "BYTES",
            raw([["", "", ""]], "BYTES", raw=b"\1\0\0\0a" + data),
            _refused(texts.RAW_BYTES, "BYTES", element=1, expected=3),
        )
        for what, data in (("a length", b"\1\0\0"), ("an element", b"\2\0\0\0b"), ("a huge element", b"\xff" * 4))
    ),
    _case("raw, not UTF-8", "BYTES", raw([[b"\xff", b"", b""]], "BYTES"), _refused(texts.NOT_TEXT, "BYTES")),
    _case(
        "typed, not UTF-8",
        "BYTES",
        typed([[b"\xff", b"", b""]], "BYTES", "bytes_contents"),
        _refused(texts.NOT_TEXT, "BYTES"),
    ),
)

CASES = (*_edges(), *_elsewhere(), *_beyond(), *_one_byte_short(), *_not_finite(), *WRONG_BYTES)
