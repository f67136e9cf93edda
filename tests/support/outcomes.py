"""Predictions as the log holds them, and outcomes as they are stored, for tests of what came of predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlops.package import ColumnMapping, Horizon, Manifest, OutcomeSpec
from mlops.package.manifest import FileEntry, TensorSpec, make_manifest
from mlops.prediction_log import Batch

DAY_NS = 86_400_000_000_000
#: 2021-01-04T21:00, a Monday.
START_NS = 1_609_794_000_000_000_000
FEATURES = ("momentum", "value")
MODEL = "demo"


def make_spec(**changes: Any) -> OutcomeSpec:
    """Daily outcomes of single names, with costs."""
    spec = OutcomeSpec(
        kind="time_series", horizons=(Horizon(name="1d", periods=1),), periods_per_year=252.0, cost_bp=1.0
    )
    return spec.model_copy(update=changes)


def declaration(spec: OutcomeSpec | None = None, **changes: Any) -> Manifest:
    """The manifest of a classifier over two features, whose signal is 2 p - 1."""
    entries: dict[str, Any] = {
        "name": MODEL,
        "task": "classification",
        "inputs": (TensorSpec(name="features", datatype="FP32", shape=(-1, 2)),),
        "outputs": (TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2)),),
        "feature_names": FEATURES,
        "signal": ColumnMapping(output="probabilities", column=1, scale=2.0, offset=-1.0),
        "outcomes": spec or make_spec(),
        "files": {"model.onnx": FileEntry(sha256="0" * 64, size_bytes=1)},
    }
    return make_manifest(**(entries | changes))


@dataclass(frozen=True)
class Stored:
    """An outcome with every field of a stored one."""

    outcome_id: str
    value: float
    request_id: str = ""
    row: int = 0
    model: str = ""
    entity: str = ""
    event_time_ns: int = 0
    horizon: str = "1d"
    available_at_ns: int = 0
    recorded_at_ns: int = 0
    order: int = 0


def make_batch(
    up: Sequence[Sequence[float]],
    *,
    event_time_ns: Sequence[int] | None = None,
    entities: Sequence[tuple[str, ...]] | None = None,
    request_id: Sequence[str] | None = None,
    features: Sequence[Sequence[float]] | None = None,
    first_position: int = 0,
    version: str = "1",
    status: Sequence[int] | None = None,
    why: Sequence[int] | None = None,
) -> Batch:
    """Records with these probabilities of up, one for each row of each record."""
    n, rows = len(up), np.array([len(record) for record in up], np.int64)
    owners = np.repeat(np.arange(n, dtype=np.int64), rows)
    flat = np.array([value for record in up for value in record], np.float32)
    times = np.array(event_time_ns if event_time_ns is not None else START_NS + DAY_NS * np.arange(n), np.int64)
    inputs = np.array(features, np.float32) if features is not None else np.stack([flat, -flat], axis=1)
    texts = np.empty(n, object)
    texts[:] = list(request_id) if request_id is not None else [f"request-{first_position + i}" for i in range(n)]
    zeros = np.zeros(n, np.uint8)
    return Batch(
        model=MODEL,
        version=version,
        digest="0" * 64,
        position=first_position + np.arange(n, dtype=np.int64),
        time_ns=np.where(times == 0, START_NS, times) + 1000,
        event_time_ns=times,
        rows=rows.astype(np.uint32),
        status=zeros if status is None else np.array(status, np.uint8),
        reason=zeros,
        role=np.ones(n, np.uint8),
        why=np.ones(n, np.uint8) if why is None else np.array(why, np.uint8),
        flags=np.zeros(n, np.uint16),
        key_bucket=zeros,
        request_id=texts,
        routing_key=texts,
        entities=list(entities) if entities is not None else [("SPX",)] * n,
        plan_generation=np.ones(n, np.uint64),
        split_generation=np.ones(n, np.uint64),
        stage_ns=np.zeros((n, 6), np.uint64),
        inputs={"features": inputs.reshape(len(flat), 2)},
        outputs={"probabilities": np.stack([1 - flat, flat], axis=1)},
        input_records=owners,
        output_records=owners,
        shapes={"features": (-1, 2), "probabilities": (-1, 2)},
        boot=_same("ab" * 16, n),
        ring=np.zeros(n, np.uint32),
        sequence=(first_position + np.arange(n)).astype(np.uint64),
        missed=np.zeros(n, np.int64),
    )


def _same(text: str, n: int) -> np.ndarray[Any, Any]:
    array = np.empty(n, object)
    array[:] = text
    return array
