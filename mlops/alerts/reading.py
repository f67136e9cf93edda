"""What a row of the matrix sees of one window: one number, or none where the window can say nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """One window of one figure.

    Parameters
    ----------
    window : str
        Identifies the window among all of this figure.
    start, end : int
        Where it begins and where it ended, the end excluded, in the unit that this figure's windows are cut by
        (nanoseconds of event time, or positions in the log).
    value : float, optional
        The row's basis (a bound, a state as 0, 1, 2, or the estimate); absent where it is undefined or the sample is
        too small.
    horizon : str
        Of an outcome.
    evidence : str
        For people: the figure with its sample size and what it is held against.
    """

    model: str
    version: str
    window: str
    start: int
    end: int
    value: float | None
    horizon: str = ""
    evidence: str = ""
