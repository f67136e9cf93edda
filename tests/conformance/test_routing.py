"""Random splits and keys: each engine routes as the arithmetic of splits does, and what it records proves it."""

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import grpc
import pytest

from mlops.routing import Recorded, Segment, SplitTable, moved, prove, split_table, upper_bound, whole
from mlops.tap import Why, boots, read_catalog
from server.engine import Engine
from server.plan import ModelPlan, Plan, Role, Split, VersionPlan
from server.plan import Segment as PlanSegment
from server.tap import Tap
from tests.conformance.case import TIMEOUT_S
from tests.conformance.conftest import ENGINES
from tests.conformance.requests import PREDICT, predict
from tests.support.models import echo_model, version_plan
from tests.support.shared_memory import all_records, memory_folder
from tickserve.v1 import prediction_pb2 as pb

SPLITS, KEYS = 12, 40
NUMBERS = ("1", "2", "3")


def planned(versions: dict[str, VersionPlan], generation: int, salt: bytes, segments: tuple[Segment, ...]) -> Plan:
    roles = {number: Role.STABLE if number == "1" else Role.CANARY for number in NUMBERS}
    split = tuple(PlanSegment(upper_bound(each.upto_bp), each.version, roles[each.version]) for each in segments)
    model = ModelPlan(name="echo", versions=versions, split=Split(salt, split))
    return Plan(generation, MappingProxyType({"echo": model}))


@pytest.fixture
def served(engine_name: str, tmp_path: Path) -> Iterator[tuple[Engine, Tap, grpc.Channel, dict[str, VersionPlan]]]:
    with memory_folder() as folder:
        engine = ENGINES[engine_name]()
        tap = Tap(folder, ring_bytes=1 << 21, slot_bytes=512, producers=engine.producers)
        engine.open_tap(tap)
        (address,) = engine.start()
        versions = {number: version_plan(tmp_path, echo_model(), version=number) for number in NUMBERS}
        for version in versions.values():
            engine.prepare(version)
        channel = grpc.insecure_channel(address)
        yield engine, tap, channel, versions
        channel.close()
        engine.stop(1.0)
        assert engine.take_faults() == []
        tap.close()


def test_engines_and_offline_replay_route_alike(
    served: tuple[Engine, Tap, grpc.Channel, dict[str, VersionPlan]],
) -> None:
    engine, tap, channel, versions = served
    draw = random.Random(17)
    segments = whole("1")
    answered = dict[str, int]()
    for generation in range(1, SPLITS + 1):
        cuts = sorted(draw.sample(range(1, 10_000), len(NUMBERS) - 1))
        segments = moved(segments, dict(zip(NUMBERS, (b - a for a, b in pairwise([0, *cuts, 10_000])), strict=True)))
        salt = draw.randbytes(draw.randrange(12))
        table = split_table(salt, segments)
        engine.install(planned(versions, generation, salt, segments))
        engine.set_ready(is_ready=True)
        for number in range(KEYS):
            # Some by routing key, some by request id.
            key = "".join(draw.choices("abcdefghij£", k=draw.randrange(1, 20)))
            by = {"routing_key": key} if number % 2 else {"request_id": key}
            call = channel.unary_unary(PREDICT)(predict([1, 2, 3], **by), timeout=TIMEOUT_S)
            version = pb.PredictResponse.FromString(call).version
            assert version == table.version(key.encode()), (salt, key, segments)
            answered[version] = answered.get(version, 0) + 1
    assert all(answered[number] > SPLITS for number in NUMBERS)

    (boot,) = boots(tap.folder)
    catalog = read_catalog(boot / "catalog.jsonl")
    splits = {}
    for place, split in catalog.splits.items():
        bounds, numbers, _ = zip(*split.segments, strict=True)
        splits[place] = SplitTable(split.salt, bounds, numbers)
    records = [
        Recorded(
            model="echo",
            split_generation=record.split_generation,
            key=record.routing_key or record.request_id,
            key_bucket=record.key_bucket,
            version=catalog.versions[record.version].version,
        )
        for record in all_records(tap.folder)
        if record.why == Why.SPLIT
    ]
    proof = prove(splits, records)
    assert proof.holds, proof
    assert proof.checked == SPLITS * KEYS
