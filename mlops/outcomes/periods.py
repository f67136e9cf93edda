"""Periods: the calendar units that returns and ICs are taken over, told from how many of them a year has."""

import numpy as np

from mlops.statistics.rows import Integers

_DAY_NS = 86_400_000_000_000
#: The epoch was a Thursday; weeks begin on Monday.
_SINCE_MONDAY = 3


def period_starts(time_ns: Integers, periods_per_year: float) -> Integers:
    """For each event time the beginning of its period, in Unix nanoseconds.

    The period is the largest of year, quarter, month, week (from Monday) and day, in UTC, that a year has no fewer of:
    252 are days, 52 are weeks. Where a year has more periods than days, every event time is a period of its own, such
    as the end of a bar.
    """
    if periods_per_year > 366:
        return time_ns
    days = time_ns // _DAY_NS
    if periods_per_year > 53:
        return days * _DAY_NS
    if periods_per_year > 12:
        return (days - (days + _SINCE_MONDAY) % 7) * _DAY_NS
    months = time_ns.astype("datetime64[ns]").astype("datetime64[M]").astype(np.int64)
    length = 1 if periods_per_year > 4 else 3 if periods_per_year > 1 else 12
    return (months // length * length).astype("datetime64[M]").astype("datetime64[ns]").astype(np.int64)
