"""Small packages with a baseline in time order, and records as the log gives them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mlops.drift.check import DataRows
from mlops.package import Baseline, Manifest, OutcomeSpec, ReferenceRows, TensorSpec, make_baseline
from mlops.package.manifest import make_manifest
from mlops.tap import Why

DAY_NS = 86_400 * 10**9
#: 2020-01-01.
START_NS = 18_262 * DAY_NS


def manifest_of(features: Sequence[str], *, datatype: str = "FP32", **entries: Any) -> Manifest:
    """A manifest of one input `features` and one output `values`."""
    width = len(features)
    given: dict[str, Any] = {
        "name": "demo",
        "inputs": (TensorSpec(name="features", datatype=datatype, shape=(-1, width)),),  # type: ignore[arg-type]
        "outputs": (TensorSpec(name="values", datatype="FP32", shape=(-1, 1)),),
        "feature_names": tuple(features),
        "files": {},
    }
    return make_manifest(**(given | entries))


def baseline_of(
    manifest: Manifest,
    inputs: np.ndarray,
    outputs: np.ndarray | None = None,
    *,
    step_ns: int = DAY_NS,
    is_ordered: bool = True,
    categorical: Sequence[str] = (),
) -> Baseline:
    """The baseline of rows that are `step_ns` apart and end at 2020-01-01."""
    times = START_NS + np.arange(-len(inputs), 0, dtype=np.int64) * step_ns if is_ordered else None
    answers = None
    if outputs is not None:
        answers = ReferenceRows("test", {"values": outputs}, times[-len(outputs) :] if times is not None else None)
    return make_baseline(
        manifest.inputs,
        manifest.outputs,
        ReferenceRows("train", {"features": inputs}, times),
        answers,
        feature_names=manifest.feature_names,
        categorical=categorical,
    )


def daily(periods_per_year: float = 252.0, kind: str = "time_series") -> OutcomeSpec:
    """Outcomes that make a model a daily one, or an intraday one with more periods a year."""
    return OutcomeSpec(kind=kind, horizons=(), periods_per_year=periods_per_year, cost_bp=0.0)  # type: ignore[arg-type]


def records(
    manifest: Manifest,
    inputs: np.ndarray,
    times: np.ndarray,
    *,
    outputs: np.ndarray | None = None,
    first_position: int = 0,
    **changes: Any,
) -> DataRows:
    """One record a row; `changes` are arrays by field."""
    tensors: Mapping[str, np.ndarray] = {} if outputs is None else {"values": outputs}
    made = DataRows(manifest.digest, {"features": inputs}, tensors, times.astype(np.int64), {}, "7")
    settings = {
        "position": np.arange(first_position, first_position + len(times), dtype=np.int64),
        "time_ns": times.astype(np.int64) + 1,
        "why": np.full(len(times), Why.SPLIT, np.uint8),
    }
    for name, value in (settings | changes).items():
        object.__setattr__(made, name, value)
    return made


def cut(rows: DataRows, at: Sequence[int]) -> list[DataRows]:
    """The same records as several batches, cut before these places."""
    bounds = [0, *sorted(at), len(rows.position)]
    parts = []
    for low, high in pairwise(bounds):
        piece = slice(low, high)
        part = DataRows(
            rows.digest,
            {name: array[piece] for name, array in rows.inputs.items()},
            {name: array[piece] for name, array in rows.outputs.items()},
            rows.event_time_ns[piece],
            rows.shapes,
            rows.version,
        )
        for name in ("position", "time_ns", "why", "plan_generation", "missed"):
            object.__setattr__(part, name, getattr(rows, name)[piece])
        parts.append(part)
    return parts


def autoregressive(generator: np.random.Generator, shape: tuple[int, ...], persistence: float) -> np.ndarray:
    """Standard normal AR(1) series along the last axis."""
    from scipy.signal import lfilter

    burn = 500
    noise = generator.normal(size=(*shape[:-1], shape[-1] + burn)) * np.sqrt(1 - persistence**2)
    return np.asarray(lfilter([1.0], [1.0, -persistence], noise, axis=-1)[..., burn:])
