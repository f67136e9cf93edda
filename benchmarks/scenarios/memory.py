"""How much memory a connection takes that does nothing, and a model: by what prepare measures, and by the process.

A connection has had one answer before it falls silent. A model's share is the difference between two servers, one with
the model and one with nothing but a logistic regression, each after the same requests.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import generator, models
from benchmarks.kinds import Place, tickserve
from benchmarks.servers import ServerProcess

CONNECTIONS = 2000
SMALL = "logistic"
MODELS = ("forest-100", "boosting-100", "mlp")
RESIDENT_METRIC = "tickserve_model_resident_bytes"
REQUESTS_S = 0.5
#: The server may still be tidying up behind the last connection.
SETTLE_S = 1.0
#: The server's default bound is lower.
_BOUNDS = {"TICKSERVE_MAX_CONNECTIONS": "4096"}


@dataclass(frozen=True)
class Memory:
    """Bytes of one engine: of the process with a small model, of one idle connection, and of each model."""

    engine: str
    process_bytes: int
    threads: int
    connections: int
    bytes_per_connection: float
    prepared_bytes: Mapping[str, int | None]
    process_difference_bytes: Mapping[str, int]
    file_bytes: Mapping[str, int]


def measure(engine: str, folder: Path) -> Memory:
    """The scenario on one engine."""
    with _serving(engine, SMALL, folder) as server:
        before, threads = _settled(server), server.threads()
        with generator.idle(server.address, generator.request(SMALL, 1), CONNECTIONS):
            during = _settled(server)
    prepared: dict[str, int | None] = {}
    difference, files = {}, {}
    for model in MODELS:
        with _serving(engine, model, folder) as server:
            difference[model] = _settled(server) - before
            prepared[model] = resident_bytes(server.metrics(), model)
            files[model] = (folder / f"models-{model}" / model / "1" / "model.onnx").stat().st_size
    return Memory(
        engine=engine,
        process_bytes=before,
        threads=threads,
        connections=CONNECTIONS,
        bytes_per_connection=(during - before) / CONNECTIONS,
        prepared_bytes=prepared,
        process_difference_bytes=difference,
        file_bytes=files,
    )


@contextmanager
def _serving(engine: str, model: str, folder: Path) -> Iterator[ServerProcess]:
    """A server with one model and nothing else, after some requests."""
    own = folder / f"memory-{engine}-{model}"
    own.mkdir()
    models_dir = models.build(model, folder / f"models-{model}")
    with tickserve(Place(models_dir, model, own), engine, environment=_BOUNDS) as server:
        generator.closed(server.address, generator.request(model, 1), REQUESTS_S, in_flight=4)
        yield server


def _settled(server: ServerProcess) -> int:
    time.sleep(SETTLE_S)
    return server.resident_bytes()


def resident_bytes(page: str, model: str) -> int | None:
    """What prepare measured for a model, from a page of our metrics."""
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if family.name == RESIDENT_METRIC and sample.labels.get("model") == model:
                return int(sample.value)
    return None
