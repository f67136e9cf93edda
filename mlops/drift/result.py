"""What a closed window says: figures with their null levels, decisions, an onset; plain values that JSON holds."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Side = Literal["input", "output"]
State = Literal["ok", "warning", "critical", "insufficient"]
Statistic = Literal["psi", "js", "chi_square", "ks_binned", "w1", "missing"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
#: The one that decides.
DECISION: Statistic = "psi"


@dataclass(frozen=True, slots=True)
class Figure:
    """One statistic of one column, with what it would be without drift.

    Parameters
    ----------
    value : float or None
        None is undefined.
    null_mean, null_q95, null_q99, p : float or None
        Of the Gaussian null of docs/drift.md; None where it cannot be estimated.
    iid_mean : float or None
        The mean that independent rows would have; shown beside the null, never used to decide.
    n : int
        Rows of the window that were counted.
    effective_n : float or None
        Independent rows that would stray as much.
    state : str
        Of the column, which PSI decides: the same for all its figures.
    """

    side: Side
    column: str
    statistic: Statistic
    value: float | None
    null_mean: float | None
    null_q95: float | None
    null_q99: float | None
    p: float | None
    iid_mean: float | None
    n: int
    effective_n: float | None
    state: State


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a column, and why: thresholds on PSI, the level that p had to stay below, the reason."""

    side: Side
    column: str
    state: State
    value: float | None
    p: float | None
    level: float
    warning: float
    critical: float
    reason: str


@dataclass(frozen=True, slots=True)
class Swap:
    """The first record that a plan of another generation answered; `time_ns` is its event time."""

    generation: int
    time_ns: int
    position: int


@dataclass(frozen=True, slots=True)
class Onset:
    """When the drift of a column began: the most likely boundary of sub-blocks, and a 95% confidence interval.

    `low_ns` is None where the interval reaches back beyond what is remembered. `swap` is the nearest one.
    """

    side: Side
    column: str
    time_ns: int
    low_ns: int | None
    high_ns: int
    swap: Swap | None
    is_swap_inside: bool


@dataclass(frozen=True, slots=True)
class WindowResult:
    """A closed window of one version.

    Parameters
    ----------
    kind : str
        `count`, `time` or `session`, as in the specification.
    start_ns, end_ns : int
        Event time; the bounds of a time or session window, the end exclusive; first and last event of a count window.
    first_ns, last_ns : int
        First and last event time that was counted.
    first_position, last_position : int
        First and last record that was counted.
    closed_position : int
        The record that closed it; -1 where the data ended, so that the window may be incomplete.
    records, rows : int
        Counted, rows of inputs.
    late, outside : int
        Records since the window before that came after theirs was closed, and that lie in no exchange session.
    state : str
        The worst of the decisions.
    dropped : int
        Records of any model that never reached the log between the first and the last one.
    """

    model: str
    version: str
    digest: str
    kind: str
    start_ns: int
    end_ns: int
    first_ns: int
    last_ns: int
    first_position: int
    last_position: int
    closed_position: int
    records: int
    rows: int
    late: int
    outside: int
    state: State
    figures: tuple[Figure, ...]
    decisions: tuple[Decision, ...]
    onsets: tuple[Onset, ...]
    dropped: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal result back."""
        return asdict(self)

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> "WindowResult":
        """The result that `as_dict` wrote; KeyError or TypeError where it is none."""
        figures = tuple(Figure(**each) for each in plain["figures"])
        decisions = tuple(Decision(**each) for each in plain["decisions"])
        onsets = tuple(
            Onset(**(each | {"swap": Swap(**each["swap"]) if each["swap"] else None})) for each in plain["onsets"]
        )
        return WindowResult(**(plain | {"figures": figures, "decisions": decisions, "onsets": onsets}))

    def figure(self, side: Side, column: str, statistic: Statistic) -> Figure:
        """The one figure of that name; KeyError where there is none."""
        for each in self.figures:
            if (each.side, each.column, each.statistic) == (side, column, statistic):
                return each
        raise KeyError((side, column, statistic))


#: From harmless to worst; not knowing is worse than `ok` and never hides an alarm.
_ORDER: tuple[State, ...] = ("ok", "insufficient", "warning", "critical")


def worst(states: "list[State]") -> State:
    """The worst of these; `insufficient` where there is none."""
    return max(states, key=_ORDER.index, default="insufficient")
