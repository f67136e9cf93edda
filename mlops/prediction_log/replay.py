"""Replay: the inputs of the log through the very package that answered them, and the outputs held bit for bit."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import Manifest, Package
from mlops.package.rules import feature_bounds
from mlops.package.runtime import Run, open_model
from mlops.prediction_log.batch import Batch
from mlops.prediction_log.routed import Routed
from mlops.prediction_log.splits import Splits
from mlops.tap import Flag
from mlops.tap.layout import POLICY_NUMBER
from tickserve.errors import PackageError

#: Finds the package of a model, a version and a digest.
Find = Callable[[str, str, str], Package | None]
_BOUNDS = "bounds:"
_NO_SPLITS: Splits = MappingProxyType({})
#: Differences that are told one by one.
_TOLD = 100


@dataclass(frozen=True, slots=True)
class Difference:
    """A record whose outputs are others now: the first figure of it that is."""

    position: int
    request_id: str
    model: str
    version: str
    tensor: str
    row: int
    column: int
    logged: Any
    replayed: Any
    was_clipped: bool


@dataclass(slots=True)
class Replayed:
    """What a replay found.

    `not_replayed` counts records by why: `not run` (refused before the model), `cut` (tensors are not in the log in
    full), `no package` (none with this digest is to be had) and `failed` (the runtime refuses the model or the inputs).
    """

    records: int = 0
    equal: int = 0
    different: int = 0
    not_replayed: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    routing: Routed = field(default_factory=Routed)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "records": self.records,
            "equal": self.equal,
            "different": self.different,
            "not_replayed": dict(sorted(self.not_replayed.items())),
            "differences": [
                {name: getattr(each, name) for name in Difference.__dataclass_fields__} for each in self.differences
            ],
            "routing": self.routing.as_dict(),
        }


def replay(batches: Iterable[Batch], find: Find, splits: Splits = _NO_SPLITS) -> Replayed:
    """Runs every record once more, by itself, on one thread, as a server does; and routes it once more.

    Parameters
    ----------
    splits : mapping
        The history of splits, as `read_splits` gives it; without it no routing is proven.
    """
    found = Replayed()
    runners: dict[str, _Runner | str] = {}
    for batch in batches:
        key = batch.digest
        if key not in runners:
            runners[key] = _open(batch, find)
        runner = runners[key]
        found.records += len(batch)
        found.routing.add(batch, splits)
        for index in range(len(batch)):
            if isinstance(runner, str):
                found.not_replayed[runner if batch.flags[index] & Flag.RAN else "not run"] += 1
            else:
                runner.replay(batch, index, found)
    return found


def _open(batch: Batch, find: Find) -> "_Runner | str":
    package = find(batch.model, batch.version, batch.digest)
    if package is None:
        return "no package"
    try:
        return _Runner(package.manifest, open_model(package.model))
    except PackageError:
        return "failed"


class _Runner:
    """One package, loaded."""

    def __init__(self, manifest: Manifest, run: Run) -> None:
        self._manifest = manifest
        self._run = run

    def replay(self, batch: Batch, index: int, found: Replayed) -> None:
        """Runs one record and counts what came of it."""
        if not batch.flags[index] & Flag.RAN:
            found.not_replayed["not run"] += 1
            return
        inputs = _record(batch, "input", index)
        outputs = _record(batch, "output", index)
        if not inputs or not outputs:
            found.not_replayed["cut"] += 1
            return
        clipped = [
            rule.rule.removeprefix(_BOUNDS)
            for rule in batch.broken_rules.get(index, ())
            if rule.policy == POLICY_NUMBER["clip"] and rule.rule.startswith(_BOUNDS)
        ]
        try:
            again = self._run(self._clip(inputs, clipped) if clipped else inputs)
        except PackageError:
            found.not_replayed["failed"] += 1
            return
        difference = _compare(batch, index, outputs, again, bool(clipped))
        if difference is None:
            found.equal += 1
            return
        found.different += 1
        if len(found.differences) < _TOLD:
            found.differences.append(difference)

    def _clip(self, inputs: dict[str, NDArray[Any]], features: list[str]) -> dict[str, NDArray[Any]]:
        """What the model saw: the log has inputs as they were received, before the package's bounds clipped them."""
        names = self._manifest.feature_names
        spec = self._manifest.inputs[0]
        lows, highs = feature_bounds(names, self._manifest.input_rules, spec.datatype)
        is_clipped = np.array([name in features for name in names])
        array = inputs[spec.name]
        held = np.clip(array.astype(np.float64), lows, highs).astype(array.dtype)
        # NaN and everything inside stays the value that it was.
        outside = ((array < lows) | (array > highs)) & is_clipped
        return inputs | {spec.name: np.where(outside, held, array)}


def _record(batch: Batch, side: str, index: int) -> dict[str, NDArray[Any]]:
    """The tensors of one record in their shapes, or none where the log has not all of them in full."""
    owners = getattr(batch, f"{side}_records")
    begin, end = np.searchsorted(owners, (index, index + 1))
    if begin == end:
        return {}
    tensors = {}
    for name, rows in getattr(batch, f"{side}s").items():
        figures = rows[begin:end]
        if figures.dtype.kind == "O":
            figures = np.array([[text.decode() for text in row] for row in figures], object)
        tensors[name] = np.ascontiguousarray(figures).reshape(batch.shapes[name])
    return tensors


def _compare(
    batch: Batch,
    index: int,
    logged: Mapping[str, NDArray[Any]],
    again: Mapping[str, NDArray[Any]],
    was_clipped: bool,
) -> Difference | None:
    rows = int(batch.rows[index])
    for name, array in logged.items():
        got = np.asarray(again[name])
        if got.size != array.size or got.dtype != array.dtype:
            at, before, now = 0, list(array.shape), list(got.shape)
        else:
            places = np.flatnonzero(_differ(array.ravel(), got.ravel()))
            if not len(places):
                continue
            at = int(places[0])
            before, now = array.ravel()[at].item(), got.ravel()[at].item()
        width = max(1, array.size // rows)
        return Difference(
            position=int(batch.position[index]),
            request_id=str(batch.request_id[index]),
            model=batch.model,
            version=batch.version,
            tensor=name,
            row=at // width,
            column=at % width,
            logged=before,
            replayed=now,
            was_clipped=was_clipped,
        )
    return None


def _differ(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays of one datatype have other bits."""
    if left.dtype.kind == "O":
        return np.asarray(left != right, np.bool_)
    size = left.dtype.itemsize
    bits = [np.ascontiguousarray(each).view(np.uint8).reshape(-1, size) for each in (left, right)]
    return np.asarray((bits[0] != bits[1]).any(axis=1))
