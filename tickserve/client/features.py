"""Features as callers hold them, parsed once: float32 values by position, or lines of named values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tickserve.errors import InvalidInputError
from tickserve.prediction import FloatArray

_WIRE_TYPE = np.dtype("<f4")


class Table(Protocol):
    """A DataFrame, of pandas or another: columns with names, and their values as one array."""

    @property
    def columns(self) -> Iterable[Any]:
        """Names of the columns."""

    def to_numpy(self) -> npt.NDArray[Any]:
        """Values of shape (lines, columns)."""


#: What `Client.predict` takes as features.
Features: TypeAlias = npt.ArrayLike | Mapping[str, float] | Sequence[Mapping[str, float]] | Table


class NamesDifferError(InvalidInputError):
    """The names given are not those of the model, as far as the client knows them."""


@dataclass(frozen=True, slots=True)
class NamedLines:
    """Lines of features under distinct names: `values` has shape (lines, names) and any datatype."""

    names: tuple[str, ...]
    values: npt.NDArray[Any]

    def missing(self, feature_names: Sequence[str]) -> list[str]:
        """Those of `feature_names` that are not given."""
        given = frozenset(self.names)
        return [name for name in feature_names if name not in given]

    def unknown(self, feature_names: Sequence[str]) -> list[str]:
        """Names given that are none of `feature_names`."""
        known = frozenset(feature_names)
        return [name for name in self.names if name not in known]

    def ordered(self, feature_names: tuple[str, ...]) -> FloatArray:
        """Values of shape (lines, features) in the order of `feature_names`, all of which must be given."""
        if self.names == feature_names:
            return as_floats(self.values, self.names)
        position = {name: index for index, name in enumerate(self.names)}
        return as_floats(self.values[:, [position[name] for name in feature_names]], feature_names)


def parse_features(features: Features) -> FloatArray | NamedLines:
    """Tells values by position (arrays and nested lists) from values by name (mappings, lists of them, tables).

    Raises
    ------
    InvalidInputError
        Where the values are ragged or no numbers, or a name is no string or appears twice.
    """
    if isinstance(features, np.ndarray):
        return as_floats(_plain(features))
    if hasattr(features, "columns") and hasattr(features, "to_numpy"):
        return NamedLines(_distinct(features.columns), features.to_numpy())
    # Not only dict: a pandas Series has names, too, and must not be taken by position.
    if hasattr(features, "keys"):
        return _parse_lines([features])
    if isinstance(features, list | tuple) and any(hasattr(line, "keys") for line in features):
        return _parse_lines(features)
    try:
        return as_floats(np.asarray(features))
    except ValueError:
        raise InvalidInputError(
            "the rows of features differ in length; every row needs all features", field="features"
        ) from None


def as_floats(values: npt.NDArray[Any], names: Sequence[str] = ()) -> FloatArray:
    """The same numbers as C-contiguous little-endian float32, without a copy where they are that already.

    Raises InvalidInputError where they are no real numbers, or too large for float32.
    """
    if values.dtype == _WIRE_TYPE and values.flags.c_contiguous:
        return values
    if values.dtype.kind == "O":
        _require_numbers(values, names)
    elif values.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"features have datatype {values.dtype}; expected numbers, best float32", field="features"
        )
    try:
        with np.errstate(over="raise"):
            # By way of float64, because a cast of objects reports no overflow.
            numbers = values.astype(np.float64) if values.dtype.kind == "O" else values
            return numbers.astype(_WIRE_TYPE, order="C")
    except (FloatingPointError, OverflowError):
        raise InvalidInputError(
            "features hold a number too large for float32 (3.4e38), which is what models take", field="features"
        ) from None


def check_steps(steps: object) -> None:
    """Raises InvalidInputError for what is no whole number; whether it fits the lines is for `to_rows`."""
    if steps is not None and not isinstance(steps, int | np.integer):
        raise InvalidInputError(f"steps is {steps!r}; expected a whole number", field="steps")


def to_rows(values: FloatArray, steps: int | None) -> FloatArray:
    """A view of shape (rows, steps, features).

    One dimension is one line of features, two are lines, of which each `steps` (default 1) following ones are a row;
    three have their steps already.

    Raises
    ------
    InvalidInputError
        For another rank, for no values at all, and where `steps` does not divide the lines.
    """
    if values.ndim not in (1, 2, 3):
        raise InvalidInputError(
            f"features have shape {values.shape}; expected one row (features), rows x features or "
            "rows x steps x features",
            field="features",
        )
    if values.size == 0:
        raise InvalidInputError(
            f"features have shape {values.shape}: no values; at least one row is needed", field="features"
        )
    if values.ndim == 3:
        if steps is not None and steps != values.shape[1]:
            raise InvalidInputError(
                f"features have shape {values.shape}, so {values.shape[1]} steps, but steps is {steps}", field="steps"
            )
        return values
    lines, width = (1, values.size) if values.ndim == 1 else values.shape
    steps = 1 if steps is None else steps
    if steps < 1 or lines % steps:
        raise InvalidInputError(
            f"features have {lines} lines, which steps={steps} does not divide; a row is `steps` lines", field="steps"
        )
    return values.reshape(lines // steps, steps, width)


def _plain(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where it is of a subclass: a matrix has no views of other ranks, and a mask would be lost."""
    if np.ma.is_masked(values):
        raise InvalidInputError(
            "some features are masked, and what a mask hides is not sent; say what to send there, such as "
            "features.filled(numpy.nan)",
            field="features",
        )
    return np.asarray(values)


def _parse_lines(lines: Sequence[Any]) -> NamedLines:
    try:
        names = _distinct(lines[0].keys())
        for row, line in enumerate(lines[1:], start=1):
            if differing := set(names).symmetric_difference(line.keys()):
                raise InvalidInputError(
                    f"row {row} and row 0 differ in the names {', '.join(sorted(map(repr, differing)))}; "
                    "every row needs the same",
                    field="features",
                )
        table = [[line[name] for name in names] for line in lines]
        values = np.array(table)
        if values.dtype.kind not in "fiu":
            # One string would have made strings of all; as objects, the error can name it.
            values = np.array(table, dtype=object)
    except (AttributeError, ValueError):
        values = np.empty(0)
    if values.ndim != 2:
        raise InvalidInputError(
            "each name needs one number; several rows are a list of dicts, one a row, or a DataFrame", field="features"
        )
    return NamedLines(names, values)


def _distinct(columns: Iterable[Any]) -> tuple[str, ...]:
    names = tuple(columns)
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InvalidInputError(f"feature {twice!r} appears twice", field=str(twice))
    for name in names:
        if not isinstance(name, str):
            raise InvalidInputError(
                f"feature name {name!r} is of type {type(name).__name__}; names are strings", field="features"
            )
    return names


def _require_numbers(values: npt.NDArray[Any], names: Sequence[str]) -> None:
    for place, value in np.ndenumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
            feature = f"feature {names[place[-1]]!r}" if names else f"the value at {place}"
            raise InvalidInputError(
                f"{feature} is {value!r} of type {type(value).__name__}; expected a number", field="features"
            )
