"""Golden rows: inputs with the outputs that the training framework gave, which a package must repeat.

Stored as golden.npz: `input:NAME` and `output:NAME` arrays, and the scalars `rtol` and `atol`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mlops.package.datatypes import Array, Bools, datatype_of
from mlops.package.manifest import GOLDEN_FILE, TensorSpec
from mlops.package.npz import read_arrays, write_arrays
from tickserve.errors import PackageError

Arrays = Mapping[str, Array]

_MAX_UNPACKED_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Golden:
    """Inputs, the outputs they must give, and how close is close enough.

    Parameters
    ----------
    inputs, outputs : Mapping[str, ndarray]
        By tensor name, in the tensor's datatype and shape.
    rtol, atol : float
        A float output passes where |actual - golden| <= atol + rtol * |golden|; every other datatype must be equal.
    """

    inputs: Arrays
    outputs: Arrays
    rtol: float = 1e-4
    atol: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not (math.isfinite(value) and value >= 0):
                raise PackageError(f"golden rows: {name} is {value}, a finite number >= 0 is expected", field=name)
        if not self.inputs or not self.outputs:
            raise PackageError("golden rows need at least one input and one output", field=GOLDEN_FILE)

    def max_error(self, outputs: Arrays) -> float:
        """Largest absolute difference over all outputs; infinite where shapes differ or NaN meets a number."""
        return max(_max_difference(golden, outputs.get(name)) for name, golden in self.outputs.items())

    def mismatch(self, outputs: Arrays) -> str | None:
        """What differs by more than the tolerance, in a sentence, or None."""
        for name, golden in self.outputs.items():
            actual = outputs.get(name)
            if actual is None:
                return f"output {name!r} of the golden rows is not among the model's ({', '.join(outputs) or 'none'})"
            if actual.shape != golden.shape:
                return f"output {name!r} has shape {list(actual.shape)}, the golden rows say {list(golden.shape)}"
            wrong = ~_is_close(golden, actual, self.rtol, self.atol)
            if wrong.any():
                return self._describe(name, golden, actual, wrong)
        return None

    def _describe(
        self,
        name: str,
        golden: Array,
        actual: Array,
        wrong: Bools,
    ) -> str:
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        bound = f"rtol {self.rtol:g}, atol {self.atol:g}" if golden.dtype.kind == "f" else "equality"
        return (
            f"output {name!r} at {list(first)} is {actual[first]}, the golden rows say {golden[first]}; "
            f"{np.count_nonzero(wrong)} of {golden.size} values differ (required: {bound}), "
            f"the largest by {_max_difference(golden, actual):.3g}"
        )


def write_golden(golden: Golden) -> bytes:
    """The bytes of golden.npz; equal rows give equal bytes."""
    arrays = {f"input:{name}": array for name, array in golden.inputs.items()}
    arrays |= {f"output:{name}": array for name, array in golden.outputs.items()}
    return write_arrays(arrays | {"rtol": np.array(golden.rtol), "atol": np.array(golden.atol)})


def read_golden(data: bytes) -> Golden:
    """Reads golden.npz.

    Raises
    ------
    PackageError
        Where the file is malformed, too large, pickled, or has other arrays than those above.
    """
    return golden_from_arrays(read_arrays(data, GOLDEN_FILE, _MAX_UNPACKED_BYTES))


def golden_from_arrays(arrays: Arrays) -> Golden:
    """Golden rows from the arrays of golden.npz by name; PackageError where there are others, or fewer."""
    arrays = dict(arrays)
    tolerance = {name: _scalar(name, arrays.pop(name, None)) for name in ("rtol", "atol")}
    groups: dict[str, dict[str, Array]] = {"input": {}, "output": {}}
    for key, array in arrays.items():
        group, _, name = key.partition(":")
        if group not in groups or not name:
            raise PackageError(
                f"{GOLDEN_FILE}: unknown array {key!r}; input:NAME, output:NAME, rtol and atol are expected",
                field=GOLDEN_FILE,
            )
        groups[group][name] = array
    return Golden(groups["input"], groups["output"], **tolerance)


def check_golden(golden: Golden, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Raises PackageError where the golden tensors are not exactly those of the schema, or hold no values."""
    for kind, arrays, specs in (("input", golden.inputs, inputs), ("output", golden.outputs, outputs)):
        names = {spec.name for spec in specs}
        if set(arrays) != names:
            raise PackageError(
                f"{GOLDEN_FILE}: {kind}s {sorted(arrays)}, the schema has {sorted(names)}", field=GOLDEN_FILE
            )
        for spec in specs:
            array = arrays[spec.name]
            fits = len(array.shape) == len(spec.shape) and all(
                want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
            )
            if not fits or datatype_of(array.dtype) != spec.datatype or array.size == 0:
                raise PackageError(
                    f"{GOLDEN_FILE}: {kind} {spec.name!r} is {datatype_of(array.dtype)} of shape {list(array.shape)}, "
                    f"the schema says {spec.datatype} of shape {list(spec.shape)}, with at least one value",
                    field=GOLDEN_FILE,
                )


def _scalar(name: str, array: Array | None) -> float:
    if array is None or array.shape != () or array.dtype.kind != "f":
        raise PackageError(f"{GOLDEN_FILE}: {name} is missing or no single float", field=GOLDEN_FILE)
    return float(array)


def _is_close(golden: Array, actual: Array, rtol: float, atol: float) -> Bools:
    if golden.dtype.kind != "f" or actual.dtype.kind != "f":
        return np.asarray(golden == actual, dtype=np.bool_)
    close = np.isclose(actual.astype(np.float64), golden.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)
    return np.asarray(close, dtype=np.bool_)


def _max_difference(golden: Array, actual: Array | None) -> float:
    if actual is None or actual.shape != golden.shape:
        return math.inf
    equal = np.asarray(golden == actual) | _both_nan(golden, actual)
    if equal.all():
        return 0.0
    if golden.dtype.kind not in "biuf" or actual.dtype.kind not in "biuf":
        return math.inf
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual.astype(np.float64) - golden.astype(np.float64))
    # NaN against a number, and infinities against each other, are as far apart as can be.
    return float(np.where(equal, 0.0, np.where(np.isnan(difference), math.inf, difference)).max())


def _both_nan(golden: Array, actual: Array) -> Bools:
    if golden.dtype.kind != "f" or actual.dtype.kind != "f":
        return np.zeros(golden.shape, np.bool_)
    return np.asarray(np.isnan(golden) & np.isnan(actual), dtype=np.bool_)
