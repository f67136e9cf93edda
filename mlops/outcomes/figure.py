"""One figure about what came of predictions, with its interval and how much it rests on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "insufficient"]


@dataclass(frozen=True, slots=True)
class OutcomeFigure:
    """One figure of one version at one horizon.

    What is undefined is None, never 0.

    Attributes
    ----------
    version : str
        Empty for figures of the model whoever answered, such as a strategy's reported P&L.
    value, lower, upper : float or None
        The interval covers the true value with 95%, at most 2.5% on either side.
    standard_error : float or None
        Of `value`; see docs/outcomes.md for which one.
    n : int
        Periods behind a figure of periods (ICs, returns), rows behind one of rows.
    start_ns, end_ns : int
        Event times of the first and the last row it rests on; 0 where there is none.
    state : str
        `insufficient` where there are fewer than 20 periods, or no interval: not to be acted on.
    """

    model: str
    version: str
    horizon: str
    figure: str
    value: float | None
    lower: float | None
    upper: float | None
    standard_error: float | None
    n: int
    start_ns: int
    end_ns: int
    state: State

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OutcomeFigure":
        """The figure of `as_dict`."""
        return cls(**values)
