"""Whether rows are out of sample: outputs on rows that the model was trained on say nothing about those it will see."""

from collections.abc import Mapping

import numpy as np

from mlops.package.datatypes import Array
from mlops.package.manifest import DatasetInfo
from mlops.package.reference import ReferenceRows, iso
from tickserve.errors import DataError


def check_out_of_sample(trained: ReferenceRows, unseen: ReferenceRows, described: Mapping[str, DatasetInfo]) -> None:
    """Raises DataError where the data sets have one name, one fingerprint in `described`, or periods that overlap."""
    if unseen.dataset == trained.dataset:
        raise _refusal(trained, unseen, "its inputs are the model's own training rows")
    if described[unseen.dataset].fingerprint == described[trained.dataset].fingerprint:
        raise _refusal(trained, unseen, f"it has the fingerprint of {trained.dataset!r}: they are the same rows")
    if trained.times is None or unseen.times is None:
        return
    first, last = (
        max(trained.times.min(), unseen.times.min()),
        min(trained.times.max(), unseen.times.max()),
    )
    if first <= last:
        raise _refusal(trained, unseen, f"both it and {trained.dataset!r} cover {iso(int(first))} to {iso(int(last))}")


def check_unseen_rows(trained: ReferenceRows, unseen: ReferenceRows) -> None:
    """Raises DataError where every row of `unseen`, which has the same tensors, is a training row, in whatever order.

    Where training rows repeat each other, as rows of a few categories do, finding a row among them shows nothing: then
    only the same rows again are refused.
    """
    seen, new = _rows(trained, unseen), _rows(unseen, trained)
    known = set(seen)
    if sorted(seen) == sorted(new) or (len(known) == len(seen) and known.issuperset(new)):
        raise _refusal(trained, unseen, f"every row of it is a row of {trained.dataset!r}")


def _refusal(trained: ReferenceRows, unseen: ReferenceRows, reason: str) -> DataError:
    return DataError(
        f"outputs of data set {unseen.dataset!r} are no reference, because {reason}; "
        "give outputs on rows that the model was not trained on",
        field=unseen.dataset,
    )


def _rows(rows: ReferenceRows, other: ReferenceRows) -> list[bytes]:
    """Each row's bytes over all tensors, text as wide as in `other`."""
    columns = [
        _bytes(array, np.promote_types(array.dtype, other.tensors[name].dtype))
        for name, array in sorted(rows.tensors.items())
    ]
    return [row.tobytes() for row in np.concatenate(columns, axis=1)]


def _bytes(array: Array, dtype: "np.dtype[np.generic]") -> Array:
    flat = np.ascontiguousarray(array.astype(dtype).reshape(len(array), -1))
    return flat.view(np.uint8)
