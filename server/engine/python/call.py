"""One request by its shape and by its values, whatever its protocol."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from server.engine.python.rules import Array, Finding, Findings


class Shape(NamedTuple):
    """What a routed request asks for by its shapes, held against the schema before any contents are read.

    `values` is the number of elements in all inputs: rows x steps x width. `tensors` is the codec's own.
    """

    rows: int
    values: int
    tensors: Sequence[tuple[Any, int, tuple[int, ...], int]] = ()


@dataclass(slots=True)
class Call:
    """One decoded request on its way through the checks; `arrays` are in the order of the model's inputs."""

    arrays: list[Array]
    rows: int
    request_id: str
    event_time_unix_ns: int
    timeout_us: int
    #: Which outputs to answer with, by their places; None for all.
    outputs: tuple[int, ...] | None = None
    findings: Findings = field(default_factory=Findings)
    #: The first input as it came, where a rule replaced it.
    received: Array | None = None
    #: The output rule of policy fallback that was broken, with the first place.
    fallback: Finding | None = None


class Asked(NamedTuple):
    """What a request says of itself, for the tap; `request_id` is empty where the server drew one."""

    request_id: str
    routing_key: str
    is_pinned: bool
    entities: Sequence[str]
