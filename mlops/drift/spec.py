"""What a drift monitor is told: its windows, its thresholds, its budget of false alarms."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mlops.package import Baseline, Manifest
from tickserve.errors import ConfigurationError

DAY_NS = 86_400 * 10**9
#: Fewest sub-blocks with rows that a window is decided on.
MIN_SUB_BLOCKS = 20
#: What is dropped is no random sample: busy times are dropped first.
MAX_DROPPED_SHARE = 0.001
#: Rows of a window of a daily model.
DAILY_ROWS = 250
#: More periods a year than there are days: an intraday model.
_DAYS_PER_YEAR = 366
#: The tag of a package that names the exchange whose sessions its windows are.
CALENDAR_TAG = "calendar"
#: Pieces of windows that follow the clock: some may hold no row, 20 must.
TIMED_SUB_BLOCKS = 24
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
#: A window of a daily model that scores many names at a time: rows say nothing about how long it is.
CROSS_SECTION_DAYS = 84


@dataclass(frozen=True, slots=True)
class Thresholds:
    """PSI above which a column is a warning, and critical, if its p agrees."""

    warning: float = 0.10
    critical: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.warning <= self.critical:
            raise ConfigurationError(
                f"thresholds must be 0 < warning <= critical, have {self.warning:g} and {self.critical:g}",
                field="thresholds",
            )


@dataclass(frozen=True, slots=True)
class DriftSpec:
    """How drift is watched. `default_spec` gives the one that suits a package.

    Parameters
    ----------
    kind : str
        Tumbling windows of `count` rows in the log's order; of `time`, aligned to 1970-01-01 in event time; of one
        exchange `session`, open to close.
    rows : int
        Of a count window.
    length_s : int
        Of a time window.
    calendar : str
        Of a session window, as exchange_calendars names it.
    sub_blocks : int
        Pieces of a window, at least 20.
    lateness_s : float
        How long a time or session window waits for records that come after their time.
    thresholds, column_thresholds
        For all columns, and for single ones by name.
    budget_days : float
        At most one false alarm a model in so many days.
    max_level : float
        Of one window, however long it is.
    """

    kind: Literal["count", "time", "session"] = "count"
    rows: int = DAILY_ROWS
    length_s: int = 86_400
    calendar: str = ""
    sub_blocks: int = MIN_SUB_BLOCKS
    lateness_s: float = 60.0
    thresholds: Thresholds = Thresholds()
    column_thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    budget_days: float = 90.0
    max_level: float = 0.05

    def __post_init__(self) -> None:
        for name, is_fine, expected in (
            ("kind", self.kind in ("count", "time", "session"), "count, time or session"),
            ("sub_blocks", MIN_SUB_BLOCKS <= self.sub_blocks <= 1000, f"{MIN_SUB_BLOCKS} to 1000"),
            ("rows", self.rows >= self.sub_blocks, "at least one for each sub-block"),
            ("length_s", 1 <= self.length_s <= 10**9, "1 second to 30 years"),
            ("lateness_s", 0 <= self.lateness_s <= 10**9, "0 or more, up to 30 years"),
            ("budget_days", self.budget_days > 0, "above 0"),
            ("max_level", 0 < self.max_level < 1, "between 0 and 1"),
            ("calendar", self.kind != "session" or bool(self.calendar), "the name of an exchange calendar"),
        ):
            if not is_fine:
                raise ConfigurationError(
                    f"drift: {name} is {getattr(self, name)!r}, expected {expected}", field=f"drift.{name}"
                )

    def thresholds_of(self, column: str) -> Thresholds:
        """The thresholds of a column."""
        return self.column_thresholds.get(column, self.thresholds)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"column_thresholds": {name: asdict(t) for name, t in self.column_thresholds.items()}}

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> "DriftSpec":
        """The specification that `as_dict` wrote, absent entries by default; ConfigurationError where it is none."""
        try:
            entries: dict[str, Any] = dict(plain)
            if "thresholds" in entries:
                entries["thresholds"] = Thresholds(**entries["thresholds"])
            if "column_thresholds" in entries:
                entries["column_thresholds"] = {
                    name: Thresholds(**each) for name, each in entries["column_thresholds"].items()
                }
            return DriftSpec(**entries)
        except (TypeError, AttributeError) as error:
            raise ConfigurationError(f"drift: not a specification: {error}", field="drift") from None


def is_intraday(manifest: Manifest, baseline: Baseline) -> bool:
    """Whether a model answers more than once a day: by its outcomes' periods, else by the rows of its baseline."""
    if manifest.outcomes is not None:
        return manifest.outcomes.periods_per_year > _DAYS_PER_YEAR
    blocks = baseline.inputs.blocks
    if baseline.inputs.order != "time":
        return False
    span = int(blocks[-1].last_unix_ns or 0) - int(blocks[0].first_unix_ns or 0)
    return sum(block.rows for block in blocks) > 2 * (span / DAY_NS + 1)


def parse_window(text: str) -> dict[str, Any]:
    """Entries of DriftSpec for a window as people write it: `count:500`, `time:12h`, `session:XNYS`.

    Raises
    ------
    ConfigurationError
        Where it is none of them.

    Examples
    --------
    >>> parse_window("time:7d")
    {'kind': 'time', 'length_s': 604800, 'sub_blocks': 24}
    """
    kind, _, size = text.partition(":")
    if kind == "count" and size.isdecimal():
        return {"kind": "count", "rows": int(size), "sub_blocks": MIN_SUB_BLOCKS}
    if kind == "time" and size[:-1].isdecimal() and size[-1:] in _UNITS_S:
        return {"kind": "time", "length_s": int(size[:-1]) * _UNITS_S[size[-1]], "sub_blocks": TIMED_SUB_BLOCKS}
    if kind == "session" and size:
        return {"kind": "session", "calendar": size, "sub_blocks": TIMED_SUB_BLOCKS}
    raise ConfigurationError(
        f"window {text!r}: count:ROWS, time:LENGTH (such as 12h or 7d) or session:CALENDAR (such as XNYS) is expected",
        field="window",
    )
