"""Predicted rows as columns, taken out of batches of the prediction log."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import Manifest
from mlops.prediction_log import Batch
from mlops.statistics.rows import Floats, Integers

#: Smoke tests are nobody's decisions (docs/formats/tap.md numbers why a version was asked).
_SMOKE = 5


@dataclass(frozen=True, eq=False)
class Predictions:
    """Answered rows of one version in the order of the log; arrays of shape (rows,), features (rows, features)."""

    position: Integers
    time_ns: Integers
    event_time_ns: Integers
    request_id: NDArray[Any]
    row: Integers
    entity: NDArray[Any]
    prediction: Floats
    signal: Floats
    features: NDArray[Any]

    def __len__(self) -> int:
        return len(self.position)

    def take(self, chosen: NDArray[Any]) -> "Predictions":
        """The rows of a mask, or of places."""
        return Predictions(
            self.position[chosen],
            self.time_ns[chosen],
            self.event_time_ns[chosen],
            self.request_id[chosen],
            self.row[chosen],
            self.entity[chosen],
            self.prediction[chosen],
            self.signal[chosen],
            self.features[chosen],
        )


def predictions_of(batch: Batch, manifest: Manifest) -> Predictions:
    """The rows of a batch that a signal was answered for: no refusals, no smoke tests, no outputs cut from the log.

    Empty where the package defines no signal.
    """
    mapping = manifest.signal
    output = None if mapping is None else batch.outputs.get(mapping.output)
    if mapping is None or output is None or output.dtype == object:
        return _none(len(manifest.feature_names))
    records = batch.output_records
    values = output.reshape(len(records), -1).astype(np.float64)
    column = values.max(axis=1) if mapping.column is None else values[:, mapping.column]
    signal = mapping.scale * column + mapping.offset
    # A row's maximum is no prediction of the outcome, and no probability of up.
    prediction = np.full(len(column), np.nan) if mapping.column is None else column
    row = _ordinals(records)
    kept = (batch.status[records] == 0) & (batch.why[records] != _SMOKE) & np.isfinite(signal)
    entity = np.empty(len(records), object)
    entity[:] = [_entity(batch.entities[record], place) for record, place in zip(records, row, strict=True)]
    found = Predictions(
        batch.position[records],
        batch.time_ns[records],
        batch.event_time_ns[records],
        batch.request_id[records],
        row,
        entity,
        prediction,
        signal,
        _features(batch, manifest, records, row),
    )
    return found if kept.all() else found.take(kept)


def concatenated(chunks: Sequence[Predictions], features: int) -> Predictions:
    """One run of rows; empty, of so many features, where there are none."""
    if not chunks:
        return _none(features)
    return Predictions(
        *(np.concatenate([getattr(each, field.name) for each in chunks]) for field in fields(Predictions))
    )


def _features(batch: Batch, manifest: Manifest, records: Integers, row: Integers) -> NDArray[Any]:
    """What was asked with, by name; of a sequence of steps the newest. NaN where the log has no inputs in full."""
    width = len(manifest.feature_names)
    tensor = batch.inputs.get(manifest.inputs[0].name) if width else None
    if tensor is None or tensor.dtype == object or not width:
        return np.full((len(records), width), np.nan, np.float32)
    newest = tensor.reshape(len(batch.input_records), -1)[:, -width:]
    newest = newest if newest.dtype.kind == "f" else newest.astype(np.float64)
    if len(batch.input_records) == len(records) and np.array_equal(batch.input_records, records):
        return newest
    place = {
        key: index
        for index, key in enumerate(
            zip(batch.input_records.tolist(), _ordinals(batch.input_records).tolist(), strict=True)
        )
    }
    found = np.full((len(records), width), np.nan, newest.dtype)
    for index, key in enumerate(zip(records.tolist(), row.tolist(), strict=True)):
        if key in place:
            found[index] = newest[place[key]]
    return found


def _ordinals(records: Integers) -> Integers:
    """For each row its place among the rows of its record, which lie together."""
    places = np.arange(len(records), dtype=np.int64)
    if not len(records):
        return places
    is_first = np.r_[True, records[1:] != records[:-1]]
    return places - np.maximum.accumulate(np.where(is_first, places, 0))


def _entity(entities: tuple[str, ...], row: int) -> str:
    return entities[row] if row < len(entities) else ""


def _none(features: int) -> Predictions:
    integers, floats, texts = np.empty(0, np.int64), np.empty(0), np.empty(0, object)
    matrix = np.empty((0, features), np.float32)
    return Predictions(integers, integers, integers, texts, integers, texts, floats, floats, matrix)
