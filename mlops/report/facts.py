"""What a daily report says: plain values, from which JSON and HTML are made."""

from dataclasses import asdict, dataclass
from typing import Any

from mlops.alerts.history import AlertRow
from mlops.drift import WindowResult
from mlops.outcomes import OutcomeFigure
from mlops.outcomes.comparison import Comparison
from mlops.outcomes.features import FeatureFigure


@dataclass(frozen=True, slots=True)
class Traffic:
    """Records of the day. `missed` are numbers that servers gave and the log does not have: drops of the tap."""

    records: int
    rows: int
    refused: int
    smoke: int
    flagged: int
    age_p50_s: float | None
    age_p99_s: float | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """Shares of one column by bin: bins between edges, or categories and other, each followed by missing."""

    side: str
    column: str
    labels: tuple[str, ...]
    reference: tuple[float, ...]
    seen: tuple[float, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a line with its interval; None where undefined."""

    time_ns: int
    value: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True)
class HorizonReport:
    """What came of predictions at one horizon, up to the end of the day."""

    horizon: str
    joined: int
    figures: tuple[OutcomeFigure, ...]
    comparisons: tuple[Comparison, ...]
    features: tuple[FeatureFigure, ...]
    rolling_ic: tuple[Point, ...]
    rolling_sharpe: tuple[Point, ...]
    capital: tuple[Point, ...]
    labels: dict[str, int]


@dataclass(frozen=True, slots=True)
class VersionReport:
    """One version. `notes` say what could not be told, and why."""

    model: str
    version: str
    digest: str
    traffic: Traffic
    notes: tuple[str, ...]
    distributed_from_ns: int
    distributions: tuple[Distribution, ...]
    closed: tuple[WindowResult, ...]
    windows: tuple[WindowResult, ...]
    horizons: tuple[HorizonReport, ...]


@dataclass(frozen=True, slots=True)
class DailyReport:
    """One day, in UTC by event time.

    Attributes
    ----------
    known_at_ns : int
        Outcomes count as they were known then; asked again with it, the report is the same bit for bit.
    missed : int
        Records that the taps counted and the log does not have, over all models.
    pnl : tuple
        Figures of what strategies reported, over all models.
    alerts : tuple
        Levels of alert rows that changed, and actions that were done, on the day by the clock of the sidecar.
    """

    day: str
    known_at_ns: int
    outcomes: int
    missed: int
    versions: tuple[VersionReport, ...]
    pnl: tuple[OutcomeFigure, ...]
    alerts: tuple[AlertRow, ...] = ()

    @property
    def records(self) -> int:
        """Records of the day, of all versions."""
        return sum(each.traffic.records for each in self.versions)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is null."""
        return {"format": 1} | asdict(self)
