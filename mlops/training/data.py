"""Daily bars: read from CSV, checked, frozen."""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tickserve.errors import DataError

#: Data sets that ship inside the `arch` package.
BUNDLED = ("sp500", "nasdaq")
COLUMNS = ("Date", "Open", "High", "Low", "Close", "Volume")

#: How far, relative to its bound, an open or a close may lie outside [low, high] and still count as rounding.
ROUNDING = 1e-3

_NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True)
class Bars:
    """One bar per exchange session, oldest first.

    `sessions` is datetime64[D] of shape (n,): dates of the exchange's calendar, without a time of day. The other arrays
    are float64 of shape (n,): prices finite and positive, volume at least 0, where 0 means that none was recorded.
    """

    name: str
    sessions: NDArray[np.datetime64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sessions)


def load_bars(dataset: str | Path) -> Bars:
    """Reads `sp500` or `nasdaq` (1999 to 2018), or a file ending in .csv or .csv.gz.

    A file has the columns Date (YYYY-MM-DD), Open, High, Low, Close and Volume; others are ignored. Its prices must be
    adjusted for splits, because returns are computed from them as they stand.

    Raises
    ------
    DataError
        Names the column and the date of the first bad value.
    """
    path = _bundled(str(dataset)) if dataset in BUNDLED else Path(dataset)
    if not path.name.endswith((".csv", ".csv.gz")):
        raise DataError(
            f"unknown data set {str(dataset)!r}, expected {', '.join(BUNDLED)} or a file ending in .csv or .csv.gz"
        )
    stem = path.name.removesuffix(".gz").removesuffix(".csv")
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    if not name:
        raise DataError(f"{path}: models are named after the file, so its name needs a letter or a digit")
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return parse_bars(text, name=name, date_format="%m/%d/%Y" if dataset in BUNDLED else "%Y-%m-%d")


def parse_bars(text: str, *, name: str, date_format: str = "%Y-%m-%d") -> Bars:
    """Reads bars from CSV text with a header line; see `load_bars`. `date_format` is that of `strptime`."""
    lines = csv.reader(io.StringIO(text), strict=True)
    sessions: list[date] = []
    values: dict[str, list[float]] = {column: [] for column in COLUMNS[1:]}
    try:
        header = next(lines, [])
        places = {column: _place(name, header, column) for column in COLUMNS}
        for row in lines:
            if len(row) != len(header):
                raise DataError(f"{name}: line {lines.line_num} has {len(row)} values, the header has {len(header)}")
            session = _session(name, lines.line_num, row[places["Date"]], date_format)
            sessions.append(session)
            for column, parsed in values.items():
                parsed.append(_number(name, column, session, row[places[column]]))
    except csv.Error as error:
        raise DataError(f"{name}: line {lines.line_num} is no CSV: {error}") from None
    if not sessions:
        raise DataError(f"{name}: there is a header but no session, expected one line for each")
    _check_order(name, sessions)
    arrays = {column: np.array(parsed, np.float64) for column, parsed in values.items()}
    _check_ranges(name, sessions, arrays)
    return Bars(
        name=name,
        sessions=np.array(sessions, "datetime64[D]"),
        open=arrays["Open"],
        high=arrays["High"],
        low=arrays["Low"],
        close=arrays["Close"],
        volume=arrays["Volume"],
    )


def close_times(sessions: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """When features of a session are known: 16:00 in New York, as UTC datetime64[ns] of the shape of `sessions`.

    Half sessions close at 13:00: for them this is late, never early.
    """
    closes = [datetime.combine(session, time(16), _NEW_YORK).astimezone(UTC) for session in sessions.tolist()]
    return np.array([close.replace(tzinfo=None) for close in closes], "datetime64[ns]")


def _bundled(dataset: str) -> Path:
    """Finds the file without importing `arch`, which takes longer than fitting a logistic regression on it."""
    spec = find_spec("arch")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"data set {dataset!r} ships inside the package `arch`: install `tickserve[train]`")
    return Path(spec.submodule_search_locations[0]) / "data" / dataset / f"{dataset}.csv.gz"


def _place(name: str, header: Sequence[str], column: str) -> int:
    if (count := header.count(column)) != 1:
        raise DataError(
            f"{name}: the header has {count} columns {column}, expected one each of {', '.join(COLUMNS)}", field=column
        )
    return header.index(column)


def _session(name: str, line: int, text: str, date_format: str) -> date:
    try:
        return datetime.strptime(text, date_format).date()  # noqa: DTZ007  a session is a date without a time
    except ValueError:
        raise DataError(
            f"{name}: column Date, line {line}: {text!r} is no exchange session, expected a date as {date_format}, "
            "without time of day or zone",
            field="Date",
        ) from None


def _number(name: str, column: str, session: date, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{name}: column {column} on {session}: {text!r} is no finite number", field=column)
    return number


def _check_order(name: str, sessions: Sequence[date]) -> None:
    for before, after in pairwise(sessions):
        if after <= before:
            what = "appears twice" if after == before else f"comes after {before}"
            raise DataError(f"{name}: column Date: {after} {what}, expected increasing, unique dates", field="Date")


def _check_ranges(name: str, sessions: Sequence[date], columns: Mapping[str, NDArray[np.float64]]) -> None:
    def refuse(column: str, bad: NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            first = int(bad.argmax())
            raise DataError(
                f"{name}: column {column} on {sessions[first]}: {columns[column][first]:g}, expected {expected}",
                field=column,
            )

    for column in COLUMNS[1:5]:
        refuse(column, columns[column] <= 0, "a price above 0")
    refuse("Volume", columns["Volume"] < 0, "0 or more")
    refuse("High", columns["High"] < columns["Low"], "at least the low of that session")
    lowest, highest = columns["Low"] * (1 - ROUNDING), columns["High"] * (1 + ROUNDING)
    for column in ("Open", "Close"):
        outside = (columns[column] < lowest) | (columns[column] > highest)
        refuse(column, outside, "a price between the low and the high of that session")
