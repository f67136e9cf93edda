"""What an engine leaves in the tap of each request: every engine the same, but for times and drawn ids."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
import pytest

from mlops.package import Bounds, InputRules, Limits, OutputRule
from mlops.routing import MAX_HASH, key_bucket
from mlops.tap import BrokenRule, Finding, Flag, PageReader, Record, Tensor, Why, boots, read_catalog
from mlops.tap.layout import DATATYPE_NUMBER
from server.engine import Engine
from server.plan import ModelPlan, Plan, Role, Segment, Split, VersionPlan
from server.tap import Tap
from tests.conformance.case import TIMEOUT_S
from tests.conformance.conftest import ENGINES
from tests.conformance.requests import INFER, PREDICT, infer, predict, raw
from tests.support.models import echo_model, version_plan
from tests.support.shared_memory import all_records, memory_folder
from tickserve.errors import Code

SALT = b"salt"
ANSWERED = Flag.EXECUTED | Flag.READ | Flag.RAN
FP32 = DATATYPE_NUMBER["FP32"]


@dataclass
class Tapped:
    """An engine with a tap, and the versions of one model in it."""

    engine: Engine
    tap: Tap
    channel: grpc.Channel

    def call(self, method: str, data: bytes) -> str:
        """The status of a call."""
        call = self.channel.unary_unary(method).future(data, timeout=TIMEOUT_S)
        return call.code().name

    def records(self) -> list[Record]:
        return all_records(self.tap.folder)


def versions(folder: Path) -> tuple[VersionPlan, VersionPlan]:
    """A stable one that clips, flags and rejects; a canary that is never fast enough."""
    rules = InputRules(bounds={"momentum": Bounds(maximum=10, policy="clip"), "rsi": Bounds(maximum=10, policy="flag")})
    output_rules = (OutputRule(name="sane", output="values", kind="range", maximum=100, policy="reject"),)
    limits = Limits(max_rows=10_000, latency_budget_us=60_000_000)
    stable = version_plan(folder, echo_model(), input_rules=rules, output_rules=output_rules, limits=limits)
    canary = version_plan(
        folder,
        echo_model(),
        version="2",
        limits=Limits(latency_budget_us=1),
        output_rules=(OutputRule(name="low", output="values", kind="range", maximum=50, policy="flag"),),
    )
    return stable, canary


@pytest.fixture
def tapped(engine_name: str, tmp_path: Path) -> Iterator[Tapped]:
    """The engine with both versions, a hair less than half of the keys to each."""
    with memory_folder() as folder:
        engine = ENGINES[engine_name]()
        tap = Tap(folder, ring_bytes=1 << 20, slot_bytes=512, producers=engine.producers)
        engine.open_tap(tap)
        (address,) = engine.start()
        stable, canary = versions(tmp_path)
        for version in (stable, canary):
            engine.prepare(version)
        segments = (Segment(MAX_HASH // 2, "1", Role.STABLE), Segment(MAX_HASH, "2", Role.CANARY))
        model = ModelPlan(
            name="echo",
            versions={"1": stable, "2": canary},
            split=Split(SALT, segments),
            pins=frozenset({"1"}),
            latency_edge_ns=1,
        )
        engine.install(Plan(4, MappingProxyType({"echo": model})))
        engine.install(Plan(5, MappingProxyType({"echo": model})))
        engine.set_ready(is_ready=True)
        channel = grpc.insecure_channel(address)
        yield Tapped(engine, tap, channel)
        channel.close()
        engine.stop(1.0)
        assert engine.take_faults() == []
        tap.close()
        assert not folder.exists()


def tensor(*values: float) -> Tensor:
    return Tensor(FP32, (1, len(values)), np.array(values, "<f4").tobytes())


def expected(**fields: Any) -> Record:
    """The record of a request for stable by key `EURUSD` that was answered, but for these fields."""
    usual: dict[str, Any] = {
        "time_unix_ns": 0,
        "event_time_unix_ns": 0,
        "plan_generation": 5,
        "split_generation": 4,
        "durations_ns": (),
        "version": 0,
        "rows": 1,
        "status": 0,
        "reason": 0,
        "role": Role.STABLE,
        "why": Why.SPLIT,
        "key_bucket": key_bucket(SALT, KEYS[0].encode()),
        "flags": ANSWERED,
        "request_id": b"id",
        "routing_key": KEYS[0].encode(),
        "inputs": (tensor(1, 2, 3),),
        "outputs": (tensor(1, 2, 3),),
    }
    return Record(**(usual | fields))


def timeless(record: Record) -> Record:
    return record._replace(time_unix_ns=0, durations_ns=())


#: One that the split gives to each version.
KEYS = ("EURUSD", "USDJPY")


def ask(**fields: Any) -> bytes:
    return predict(**({"features": [1, 2, 3], "request_id": "id", "routing_key": KEYS[0]} | fields))


def ask_oip(*rows: list[float], **parameters: Any) -> bytes:
    given = {"tickserve_routing_key": KEYS[0]} | parameters
    return infer(raw(list(rows)), request_id="id", parameters=given)


REFUSED: dict[str, Any] = {"outputs": (), "status": Code.INVALID_ARGUMENT, "reason": 10}
CASES: list[tuple[str, str, bytes, Record]] = [
    ("an answer", PREDICT, ask(), expected()),
    (
        "an answer with everything",
        PREDICT,
        ask(entities=["EURUSD"], event_time_unix_ns=1_700_000_000_000_000_000, features=[11, 12, 3]),
        expected(
            event_time_unix_ns=1_700_000_000_000_000_000,
            inputs=(tensor(11, 12, 3),),
            outputs=(tensor(10, 12, 3),),
            entities=(b"EURUSD",),
            findings=(Finding(1, 0, 0, "bounds:momentum"), Finding(2, 0, 1, "bounds:rsi")),
            broken_rules=(BrokenRule("bounds:momentum", 2, 1), BrokenRule("bounds:rsi", 3, 1)),
        ),
    ),
    (
        "rows",
        PREDICT,
        ask(features=[1, 2, 3, 4, 5, 6], rows=2, entities=["A", "Bü"]),
        expected(
            rows=2,
            inputs=(Tensor(FP32, (2, 3), np.arange(1, 7, dtype="<f4").tobytes()),),
            outputs=(Tensor(FP32, (2, 3), np.arange(1, 7, dtype="<f4").tobytes()),),
            entities=(b"A", "Bü".encode()),
        ),
    ),
    (
        "the canary",
        PREDICT,
        ask(routing_key=KEYS[1], features=[1, 2, 60]),
        expected(
            version=1,
            role=Role.CANARY,
            key_bucket=key_bucket(SALT, KEYS[1].encode()),
            routing_key=KEYS[1].encode(),
            inputs=(tensor(1, 2, 60),),
            outputs=(tensor(1, 2, 60),),
            findings=(Finding(2, 0, 2, "low"),),
            broken_rules=(BrokenRule("low", 3, 1),),
        ),
    ),
    (
        "a pin",
        PREDICT,
        ask(version="1", routing_key=KEYS[1]),
        expected(why=Why.PIN, key_bucket=key_bucket(SALT, KEYS[1].encode()), routing_key=KEYS[1].encode()),
    ),
    (
        "the id is the key",
        PREDICT,
        ask(request_id=KEYS[0], routing_key=""),
        expected(request_id=KEYS[0].encode(), routing_key=b""),
    ),
    (
        "a shape that is refused",
        PREDICT,
        ask(features=[1], entities=["A"]),
        expected(rows=0, flags=0, inputs=(), **REFUSED),
    ),
    (
        "a value that is refused",
        PREDICT,
        ask(features=[1, float("nan"), 3], entities=["A"]),
        expected(
            flags=Flag.READ,
            inputs=(tensor(1, float("nan"), 3),),
            entities=(b"A",),
            broken_rules=(BrokenRule("finite:features", 1, 1),),
            **REFUSED,
        ),
    ),
    (
        "an output that is withheld",
        PREDICT,
        ask(features=[1, 2, 1000]),
        expected(
            status=Code.INTERNAL,
            reason=7,
            inputs=(tensor(1, 2, 1000),),
            outputs=(tensor(1, 2, 1000),),
            broken_rules=(BrokenRule("sane", 1, 1),),
        ),
    ),
    (
        "ModelInfer",
        INFER,
        ask_oip([1, 2, 3], [4, 5, 6], tickserve_entities="A,B", tickserve_event_time_unix_ns=77),
        expected(
            rows=2,
            event_time_unix_ns=77,
            inputs=(Tensor(FP32, (2, 3), np.arange(1, 7, dtype="<f4").tobytes()),),
            outputs=(Tensor(FP32, (2, 3), np.arange(1, 7, dtype="<f4").tobytes()),),
            entities=(b"A", b"B"),
        ),
    ),
    (
        "ModelInfer on the pool",
        INFER,
        infer(raw([[0, 1, 2]] * 6000), request_id="id", parameters={"tickserve_routing_key": KEYS[0]}),
        expected(
            rows=6000,
            flags=ANSWERED | Flag.CUT,
            inputs=(Tensor(FP32, (6000, 3), b"", True),),
            outputs=(Tensor(FP32, (6000, 3), b"", True),),
        ),
    ),
]


@pytest.mark.parametrize(("method", "message", "record"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_record(tapped: Tapped, method: str, message: bytes, record: Record) -> None:
    status = tapped.call(method, message)
    (found,) = tapped.records()
    assert timeless(found) == record
    assert status == Code(record.status).name
    assert sum(found.durations_ns) > 0 if record.status == 0 else found.durations_ns == (0,) * 6
    assert found.time_unix_ns > 1_700_000_000_000_000_000


def test_what_reached_no_version_leaves_no_record(tapped: Tapped) -> None:
    for message in (ask(model="nope"), ask(version="2"), ask(version="9"), ask(request_id="x" * 65), b"\xff"):
        assert tapped.call(PREDICT, message) != "OK"
    assert tapped.records() == []


def test_a_drawn_id_is_recorded_and_is_the_key(tapped: Tapped) -> None:
    assert tapped.call(PREDICT, ask(request_id="", routing_key="")) == "OK"
    (found,) = tapped.records()
    assert found.flags & Flag.DRAWN
    assert found.routing_key == b""
    assert found.key_bucket == key_bucket(SALT, found.request_id)


def test_catalog_says_what_the_numbers_stand_for(tapped: Tapped) -> None:
    (boot,) = boots(tapped.tap.folder)
    catalog = read_catalog(boot / "catalog.jsonl")
    assert [(number, each.model, each.version) for number, each in catalog.versions.items()] == [
        (0, "echo", "1"),
        (1, "echo", "2"),
    ]
    split = catalog.splits["echo", 4]
    assert (split.salt, [segment[1:] for segment in split.segments]) == (SALT, [("1", 1), ("2", 2)])
    assert len(catalog.splits) == 1, "the same split came with the second plan"


def test_counters_page_counts_by_version_and_key_bucket(tapped: Tapped) -> None:
    for message in [
        ask(),
        ask(features=[1]),
        ask(features=[1, 2, 1000]),
        ask(features=[11, 2, 3]),
        ask(version="1"),
        ask(routing_key=KEYS[1]),
        ask(routing_key=KEYS[1], features=[60, 2, 3]),
    ]:
        tapped.call(PREDICT, message)
    found = {block.identity.version: block for block in PageReader(tapped.tap.counters).snapshot()}
    first, second = (found[number].counts[key_bucket(SALT, KEYS[number].encode())].tolist() for number in (0, 1))
    # Requests, errors, failures, violations, output violations, over budget, over edge.
    assert first == [4, 2, 1, 2, 1, 0, 2, 0]
    assert second == [2, 0, 0, 1, 1, 2, 2, 0]
    assert [block.counts.sum() for block in found.values()] == [sum(first), sum(second)]
    assert (found[0].identity.edge_ns, found[1].identity.budget_ns) == (1, 1000)


def test_a_full_ring_costs_no_answer(tapped: Tapped) -> None:
    wide = ask(features=[1.0, 2.0, 3.0] * 1000, rows=1000)
    for _ in range(60):
        assert tapped.call(PREDICT, wide) == "OK"
    totals = tapped.tap.totals()
    assert totals.dropped > 0
    assert totals.written + totals.dropped == 60
    assert len(tapped.records()) == totals.written
    assert tapped.call(PREDICT, ask()) == "OK"
    assert [record.rows for record in tapped.records()] == [1]


def test_swaps_do_not_change_what_a_record_stands_for(tapped: Tapped, tmp_path: Path) -> None:
    tapped.call(PREDICT, ask())
    third = version_plan(tmp_path, echo_model(), version="3")
    tapped.engine.prepare(third)
    split = Split(SALT, (Segment(MAX_HASH, "3", Role.STABLE),))
    tapped.engine.install(Plan(6, MappingProxyType({"echo": ModelPlan("echo", {"3": third}, split)})))
    tapped.call(PREDICT, ask())
    assert [(record.version, record.split_generation) for record in tapped.records()] == [(0, 4), (2, 6)]
    catalog = read_catalog(tapped.tap.boot / "catalog.jsonl")
    assert catalog.versions[0].version == "1"
    assert json.loads((tapped.tap.boot / "catalog.jsonl").read_text().splitlines()[0])["kind"] == "split"
