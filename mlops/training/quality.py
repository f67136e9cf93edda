"""What is odd about a data set though it can be used: reported, never repaired and never hidden."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops.training.data import Bars
from tickserve.errors import DataError

#: The exchange whose sessions the bundled data sets follow.
CALENDAR = "XNYS"


@dataclass(frozen=True)
class DataReport:
    """Findings on one data set; dates are ISO 8601.

    Attributes
    ----------
    missing_sessions, extra_sessions : tuple of str
        Sessions of the exchange without a bar, and bars on days without a session.
    without_volume : tuple of str
        Sessions whose volume is 0, taken as not recorded.
    outside_range : int
        Bars whose open or close lies outside [low, high] by no more than rounding.
    stale_open_share : float
        Share of sessions, the first left out, whose open equals the close before to the last digit: a vendor's filler
        rather than a price that anyone could trade at.
    last_stale_year : int or None
        The last year in which more than 5% of the opens are of that kind.
    """

    name: str
    sessions: int
    first: str
    last: str
    calendar: str
    missing_sessions: tuple[str, ...]
    extra_sessions: tuple[str, ...]
    without_volume: tuple[str, ...]
    outside_range: int
    stale_open_share: float
    last_stale_year: int | None

    def sentences(self) -> list[str]:
        """The findings as sentences for people, the harmless ones last."""
        found = []
        if self.missing_sessions:
            found.append(
                f"{len(self.missing_sessions)} sessions of {self.calendar} are missing: {_some(self.missing_sessions)}."
            )
        if self.extra_sessions:
            found.append(
                f"{len(self.extra_sessions)} days are no sessions of {self.calendar}: {_some(self.extra_sessions)}."
            )
        if self.without_volume:
            found.append(
                f"{len(self.without_volume)} sessions have no volume and give no row: {_some(self.without_volume)}."
            )
        if self.outside_range:
            found.append(f"{self.outside_range} opens or closes lie outside [low, high] by a rounding error.")
        if self.last_stale_year is not None:
            found.append(
                f"{self.stale_open_share:.0%} of the opens just repeat the close before, none to speak of after "
                f"{self.last_stale_year}: returns from open to open are returns from close to close there, and no one "
                "could have traded at them."
            )
        if not (self.missing_sessions or self.extra_sessions):
            found.append(
                f"Every session of {self.calendar} from {self.first} to {self.last} has its bar, no other day has one."
            )
        return found


def report(bars: Bars) -> DataReport:
    """Compares bars with the exchange calendar and looks for prices and volumes that are fillers.

    Parameters
    ----------
    bars : Bars
        At least two sessions.

    Raises
    ------
    DataError
        Where there are fewer, or none of them lies where the calendar has sessions.
    """
    if len(bars) < 2:
        raise DataError(f"{bars.name}: a single session has no return, expected one line for each of about 1,000")
    first, last = str(bars.sessions[0]), str(bars.sessions[-1])
    expected = _exchange_sessions(bars.name, first, last)
    stale = bars.open[1:] == bars.close[:-1]
    years = bars.sessions[1:].astype("datetime64[Y]").astype(int) + 1970
    stale_years = [year for year in np.unique(years).tolist() if stale[years == year].mean() > 0.05]
    outside = (np.maximum(bars.open, bars.close) > bars.high) | (np.minimum(bars.open, bars.close) < bars.low)
    return DataReport(
        name=bars.name,
        sessions=len(bars),
        first=first,
        last=last,
        calendar=CALENDAR,
        missing_sessions=tuple(map(str, np.setdiff1d(expected, bars.sessions))),
        extra_sessions=tuple(map(str, np.setdiff1d(bars.sessions, expected))),
        without_volume=tuple(map(str, bars.sessions[bars.volume == 0])),
        outside_range=int(outside.sum()),
        stale_open_share=float(stale.mean()),
        last_stale_year=stale_years[-1] if stale_years else None,
    )


def _exchange_sessions(name: str, first: str, last: str) -> NDArray[np.datetime64]:
    import exchange_calendars

    try:
        calendar = exchange_calendars.get_calendar(CALENDAR, start=first, end=last)
    except (exchange_calendars.errors.CalendarError, ValueError) as error:
        raise DataError(
            f"{name}: the calendar of {CALENDAR} has no sessions from {first} to {last}, expected dates of exchange "
            f"sessions ({type(error).__name__})",
            field="Date",
        ) from None
    return np.asarray(calendar.sessions.to_numpy().astype("datetime64[D]"))


def _some(dates: tuple[str, ...]) -> str:
    shown = ", ".join(dates[:5])
    return shown if len(dates) <= 5 else f"{shown} and {len(dates) - 5} more"
