"""A shadow gets copies of what was answered: the sample that its hash says, counted in pairs, and to nobody's cost."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import Bounds, InputRules, Limits, OutputRule, TensorSpec
from mlops.routing import MAX_HASH, is_sampled, key_bucket, routing_hash
from mlops.tap import BrokenRule, Finding, Flag, PageReader, Record, Why
from mlops.tap.layout import COMPARED_ROLE, SHADOW_ROLE
from server.plan import ModelPlan, Role, Segment, Shadow, ShadowBounds, Split, VersionPlan
from tests.conformance.requests import INFER, INFER_STREAM, PREDICT_STREAM, infer, predict, raw
from tests.conformance.running import Stream
from tests.conformance.tapped import Observed, observed
from tests.support.models import constant_model, echo_model, failing_model, scaled_model, slow_model, version_plan
from tests.support.waiting import until
from tickserve.errors import Code
from tickserve.v1 import prediction_pb2 as pb

SALT, SHADOW_SALT = b"salt", b"shadow"
ANSWERED = Flag.EXECUTED | Flag.READ | Flag.RAN
ONE_VALUE = (TensorSpec(name="values", datatype="FP32", shape=(-1, 1)),)
Make = Callable[..., Observed]


@pytest.fixture
def make(engine_name: str) -> Iterator[Make]:
    """Starts engines; whoever makes them fail looks at their faults."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(observed(engine_name, **settings))


@pytest.fixture
def engine(make: Make) -> Iterator[Observed]:
    found = make()
    yield found
    assert found.engine.take_faults() == []


def stable(folder: Path, **changes: Any) -> VersionPlan:
    """Gives the features back."""
    return version_plan(folder, echo_model(), **changes)


def quarter(folder: Path, **changes: Any) -> VersionPlan:
    """Gives a quarter of them: exact in float32."""
    return version_plan(folder, scaled_model(0.25), **({"version": "2"} | changes))


def served(*versions: VersionPlan, shadow: Shadow | None = None, **changes: Any) -> ModelPlan:
    """The first has all of the split, and the second is its shadow at 100% unless another one is given."""
    return replace(
        ModelPlan(
            name="echo",
            versions={version.version: version for version in versions},
            split=Split(SALT, (Segment(MAX_HASH, versions[0].version, Role.STABLE),)),
            pins=frozenset(version.version for version in versions),
            shadow=shadow or Shadow("2", 10_000, SHADOW_SALT),
        ),
        **changes,
    )


def values(record: Record) -> list[float]:
    found: list[float] = np.frombuffer(record.outputs[0].data, "<f4").tolist()
    return found


def rest(engine: Observed) -> int:
    """Copies that are neither counted nor dropped yet."""
    counts = engine.page()
    done = sum(row[0] for (_, role), row in counts.items() if role == SHADOW_ROLE)
    return done + sum(engine.engine.counters().shadow_dropped.values())


def test_a_copy_is_recorded_beside_the_answer(engine: Observed, tmp_path: Path) -> None:
    engine.install(served(stable(tmp_path), quarter(tmp_path)), *served_versions(tmp_path, engine))
