"""Random requests, right and wrong, to every engine at once: the same bytes come back, but for times."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mlops.package import Bounds, InputRules, OutputRule
from mlops.package.datatypes import numpy_dtype
from tests.conformance.case import TIMEOUT_S
from tests.conformance.cases import datatypes
from tests.conformance.conftest import ENGINES
from tests.conformance.requests import INFER, PREDICT, Sent, infer, predict, raw_bytes, typed
from tests.conformance.running import Server
from tests.conformance.served import one, tensor, version
from tests.support.models import FEATURES, echo_model, mixed_model, square_model
from tickserve.v1 import prediction_pb2 as pb

BATCH = 8
#: An id that the server drew.
DRAWN = re.compile(r"[0-9a-f]{12}-[0-9a-f]+")
SQUARES = (tensor("values", "FP64", -1, 3),)
MIXED_IN = (tensor("price", "FP32", -1, 2), tensor("size", "INT64", -1, 1))
MIXED_OUT = (tensor("sum", "FP32", -1, 2), tensor("count", "INT64", -1, 1))
RULED = version(
    echo_model(),
    "ruled",
    input_rules=InputRules(
        finite=False,
        bounds={
            FEATURES[0]: Bounds(minimum=-1.0, maximum=1.0, policy="clip"),
            FEATURES[1]: Bounds(minimum=-2.0, maximum=2.0, policy="flag"),
            FEATURES[2]: Bounds(minimum=-1e30, maximum=1e30, policy="reject"),
        },
        defaults={FEATURES[1]: 0.25},
    ),
    output_rules=(
        OutputRule(name="sum", output="values", kind="row_sum", minimum=-3.0, maximum=3.0, policy="flag"),
        OutputRule(name="wild", output="values", kind="range", minimum=-1e20, maximum=1e20, policy="reject"),
    ),
)
SERVED = one(
    version(echo_model()),
    version(echo_model(), "loose", input_rules=InputRules(finite=False)),
    RULED,
    version(square_model(), "square", outputs=SQUARES),
    version(mixed_model(), "mixed", inputs=MIXED_IN, outputs=MIXED_OUT, feature_names=()),
    *datatypes.VERSIONS.values(),
    name="agreement",
    bounds={"max_in_flight": 2 * BATCH, "max_in_flight_per_client": 2 * BATCH},
)
FLOATS = ("echo", "loose", "ruled", "square")
TEXT = ("", "SPY", "€" * 40, "a\0b", "\U0001f4c8")


class Requests:
    """Draws requests; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._random, self._numbers = random.Random(seed), np.random.default_rng(seed)
        self._count = 0

    def draw(self) -> tuple[str, bytes]:
        """A method and a message."""
        self._count += 1
        kinds: list[Callable[[], tuple[str, bytes]]] = [self._predict, self._named, self._infer, self._mixed, self._any]
        method, message = self._random.choice(kinds)()
        if self._random.random() < 0.1:
            message = self._broken(message)
        return method, message

    def _predict(self) -> tuple[str, bytes]:
        rows = self._random.choice((1, 1, 1, 2, 7, 64))
        features = self._floats(rows * 3 - (self._random.random() < 0.05))
        model = self._random.choice(FLOATS)
        return PREDICT, predict(features=features.tolist(), rows=rows, model=model, request_id=self._id())

    def _named(self) -> tuple[str, bytes]:
        names = self._random.sample((*FEATURES, "beta"), self._random.choice((2, 3, 3, 3)))
        named = [pb.NamedValue(name=name, value=float(self._floats(1)[0])) for name in names]
        return PREDICT, predict(named=named, model=self._random.choice(FLOATS), request_id=self._id())

    def _infer(self) -> tuple[str, bytes]:
        rows = self._random.choice((1, 1, 1, 2, 7, 64))
        values = self._floats(rows * 3).reshape(rows, 3)
        return INFER, infer(self._sent(values, "FP32"), model=self._random.choice(FLOATS), request_id=self._id())

    def _mixed(self) -> tuple[str, bytes]:
        rows = self._random.choice((1, 3))
        price = self._sent(self._floats(rows * 2).reshape(rows, 2), "FP32", name="price")
        size = self._sent(self._numbers.integers(-(2**63), 2**63 - 1, (rows, 1)), "INT64", name="size")
        sent = [price, size]
        self._random.shuffle(sent)
        return INFER, infer(*sent, model="mixed", request_id=self._id())

    def _any(self) -> tuple[str, bytes]:
        held = self._random.choice(datatypes.DATATYPES)
        rows = self._random.choice((1, 2, 5))
        if held.datatype == "BYTES":
            values: Any = np.array(self._random.choices(TEXT, k=rows * 3), object).reshape(rows, 3)
        else:
            values = self._bits(held.datatype, rows * 3).reshape(rows, 3)
        if held.contents and self._random.random() < 0.3:
            elements = (
                [each.encode() for each in values.ravel()] if held.datatype == "BYTES" else values.ravel().tolist()
            )
            sent = typed(np.array(elements, object).reshape(rows, 3), held.datatype, held.contents)
        else:
            sent = self._sent(values, held.datatype)
        return INFER, infer(sent, model=held.model, request_id=self._id())

    def _sent(self, values: Any, datatype: str, name: str = "features") -> Sent:
        sent = Sent(name=name, datatype=datatype, shape=values.shape, raw=raw_bytes(values))
        if self._random.random() < 0.05:
            wrong = self._random.choice(({"shape": (values.size,)}, {"datatype": "FP16"}, {"name": "nope"}))
            return replace(sent, **wrong)
        return sent

    def _bits(self, datatype: str, count: int) -> Any:
        dtype = numpy_dtype(datatype)
        if datatype == "BOOL":
            return self._numbers.integers(0, 2, count).astype(bool)
        return np.frombuffer(self._numbers.bytes(count * dtype.itemsize), dtype)

    def _floats(self, count: int) -> Any:
        kind = self._random.random()
        if kind < 0.7:
            return self._numbers.normal(0, 1, count).astype(np.float32)
        if kind < 0.85:
            return self._bits("FP32", count)
        edges = [0.0, -0.0, 1.0, -1.0, 2.0, np.nextafter(np.float32(1), np.float32(2)), 1e-45, np.inf, -np.inf, np.nan]
        return self._numbers.choice(np.array(edges, np.float32), count)

    def _broken(self, message: bytes) -> bytes:
        at = self._random.randrange(len(message) + 1)
        edit = self._random.randrange(3)
        if edit == 0:
            return message[:at]
        if edit == 1:
            return message[:at] + self._random.randbytes(self._random.randrange(1, 5)) + message[at:]
        return message[:at] + message[at + self._random.randrange(1, 9) :]

    def _id(self) -> str:
        return f"r{self._count}"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, Server]]:
    """Every engine, with the same installed."""
    with ExitStack() as ending:
        running = {}
        for name, make in ENGINES.items():
            running[name] = Server(make(**SERVED.bounds), SERVED, tmp_path / name)
            ending.callback(running[name].stop)
        yield running


@pytest.mark.skipif(len(ENGINES) < 2, reason="the native engine is not built here")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.integration)])
def test_every_engine_answers_random_requests_alike(servers: dict[str, Server], count: int) -> None:
    requests, answered, hurried = Requests(count), 0, 0
    for _ in range(count // BATCH):
        batch = [requests.draw() for _ in range(BATCH)]
        calls = {
            name: [server.channel.unary_unary(method).future(message, timeout=TIMEOUT_S) for method, message in batch]
            for name, server in servers.items()
        }
        for number, (method, message) in enumerate(batch):
            python, native = (seen(method, calls[name][number]) for name in ("python", "native"))
            if "DEADLINE_EXCEEDED" in (python[0], native[0]):
                # Broken bytes that ask for an answer within microseconds; who is in time is chance.
                hurried += 1
                continue
            assert native == python, f"{method} {message.hex()}"
            answered += python[0] == "OK"
    assert hurried < count / 500
    assert count / 3 < answered < count, "both right and wrong requests are drawn"
    assert [server.engine.counters().faults for server in servers.values()] == [0, 0]


def seen(method: str, call: grpc.Future) -> tuple[Any, ...]:
    """What a client sees, without the time that it took and the id that the server drew."""
    status = call.code().name
    if status != "OK":
        trailers = sorted((key, value) for key, value in call.trailing_metadata() if key.startswith("tickserve-"))
        return status, call.details(), trailers
    if method != PREDICT:
        return status, call.result()
    answer = pb.PredictResponse.FromString(call.result())
    answer.server_duration_ns = 0
    if DRAWN.fullmatch(answer.request_id):
        answer.request_id = "drawn"
    return status, answer.SerializeToString(deterministic=True)
