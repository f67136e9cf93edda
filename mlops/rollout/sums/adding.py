"""Windows of several servers added up: pure, and the same for one server and for a fleet."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mlops.rollout.counts import SideCounts, WindowCounts
from mlops.rollout.sums.values import MIXED_SHARE, CountedOutputs, CountedWindow
from mlops.routing import WHOLE_BP


class Side(NamedTuple):
    """A version in a role: what is compared with another one."""

    version: int
    role: int


def sum_window(
    rows: Iterable[CountedWindow], *, canary: Side, stable: Side, edge_ns: int, share_bp: int | None = None
) -> WindowCounts | None:
    """One window of a rollout over all reporters.

    Parameters
    ----------
    rows : iterable of CountedWindow
        Of one window: of a reporter one after the other, where it has several in the time of another's one.
    edge_ns : int
        The rollout's frozen edge. Requests under another one are from before it, or after, and make the window useless.
    share_bp : int, optional
        What to give as the canary's share where rows do not say one: of two versions that saw the same requests.

    Returns
    -------
    WindowCounts or None
        None where a share changed within it, or is not the same everywhere, or nothing of either side is there.
    """
    found = list(rows)
    chosen = [row for row in found if Side(row.version, row.role) in (canary, stable)]
    if not chosen or any(row.share_bp == MIXED_SHARE for row in found) or any(row.edge_ns != edge_ns for row in chosen):
        return None
    if share_bp is None:
        shares = {_canary_share(row, canary) for row in chosen}
        if len(shares) > 1:
            return None
        share_bp = shares.pop()
    return WindowCounts(share_bp, sum_side(chosen, canary), sum_side(chosen, stable))


def sum_side(rows: Iterable[CountedWindow], side: Side) -> SideCounts:
    """What a side has in these windows, whatever their shares and edges."""
    counts = (row.counts for row in rows if Side(row.version, row.role) == side)
    return sum(counts, SideCounts.empty())


def outputs_of(windows: Iterable[CountedOutputs], *sides: Side) -> CountedOutputs | None:
    """The windows of these sides added up; None where there are none."""
    return sum_outputs([each for each in windows if Side(each.version, each.role) in sides])


def sum_outputs(windows: Sequence[CountedOutputs]) -> CountedOutputs | None:
    """Windows of one version added up over time and reporters; None of none.

    The key is that of the first window; `window_ns` reaches to the last end. `bins` is None, and every answer unbinned,
    where windows hold bins of different columns.
    """
    if not windows:
        return None
    found = [each.bins for each in windows if each.bins is not None]
    is_one = len({bins.shape for bins in found}) == 1
    total = windows[0]
    for each in windows[1:]:
        total = replace(
            total,
            window_ns=max(total.end_ns, each.end_ns) - total.start_ns,
            answers=total.answers + each.answers,
            unbinned=total.unbinned + each.unbinned,
            total_ns=total.total_ns + each.total_ns,
            run_ns=total.run_ns + each.run_ns,
            pairs=total.pairs + each.pairs,
            flips=total.flips + each.flips,
            positions=_span(total.positions, each.positions),
            missed=_span(total.missed, each.missed),
        )
    if not is_one:
        return replace(total, bins=None, unbinned=total.answers)
    return replace(total, bins=np.stack(found).sum(axis=0, dtype=np.int64))


def drop_share(windows: Iterable[CountedOutputs]) -> float:
    """The part of the tap's records that the logs behind these windows lost meanwhile, of all versions together.

    Outputs of a time with more than 0.1% are insufficient.
    """
    spans: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}
    for each in windows:
        before = spans.get(each.reporter)
        spans[each.reporter] = (
            (each.positions, each.missed)
            if before is None
            else (_span(before[0], each.positions), _span(before[1], each.missed))
        )
    seen = sum(last - first + 1 for (first, last), _ in spans.values())
    lost = sum(last - first for _, (first, last) in spans.values())
    return lost / (lost + seen) if lost else 0.0


def _canary_share(row: CountedWindow, canary: Side) -> int:
    return row.share_bp if Side(row.version, row.role) == canary else WHOLE_BP - row.share_bp


def _span(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return min(one[0], other[0]), max(one[1], other[1])
