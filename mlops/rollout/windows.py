"""Which windows a rollout takes next, and what each of them is: evidence, or bad answers alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlops.registry.rollouts import RolloutRow
from mlops.rollout.counts import Exposure, SideCounts, WindowCounts
from mlops.rollout.spec import RolloutSpec
from mlops.rollout.sums import CountedWindow, Side, sum_side, sum_window
from mlops.routing import WHOLE_BP
from mlops.tap.layout import CANARY_ROLE, COMPARED_ROLE, SHADOW_ROLE, STABLE_ROLE

_NS = 1_000_000_000
#: What a window is waited for at least, where a server's counts are missing.
_LEAST_WAIT_NS = 10 * _NS


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """One window: `counts` where it is evidence under the present share, and what clients were exposed to.

    It may be longer than the spec says, where a sidecar came late. `is_watched` is False where a server's counts are
    missing. `reached` is how far each sidecar and server is with it, as `reached`.
    """

    start_ns: int
    end_ns: int
    counts: WindowCounts | None
    exposure: Exposure
    is_watched: bool
    reached: Mapping[tuple[str, str], int]


def window_ns_of(spec: RolloutSpec) -> int:
    """The length of a window."""
    return round(spec.window_s * _NS)


def aligned(at_ns: int, window_ns: int) -> int:
    """The start of the first window that begins at a time or later: windows are aligned to unix time."""
    return -(-at_ns // window_ns) * window_ns


def horizon(now_ns: int, complete_to_ns: int, window_ns: int) -> int:
    """Windows that end by then are taken: they are complete, or were waited for long enough.

    A sidecar whose clock is ahead does not count: what lies in the future is not over.
    """
    waited = now_ns - max(3 * window_ns, _LEAST_WAIT_NS)
    return max(min(complete_to_ns, now_ns), waited) // window_ns * window_ns


def resumed(next_ns: int, counted_to_ns: int, now_ns: int, window_ns: int) -> int:
    """Where to go on: a clock that was far ahead, and was set right, must not make a rollout wait until then."""
    if next_ns <= now_ns + 2 * window_ns:
        return next_ns
    return max(counted_to_ns, aligned(now_ns, window_ns))


def take(
    found: RolloutRow,
    spec: RolloutSpec,
    rows: Sequence[CountedWindow],
    *,
    share_bp: int,
    edge_ns: int,
    start_ns: int,
    end_ns: int,
    complete_to_ns: int,
    evidence_from_ns: int = 0,
) -> Iterator[Taken]:
    """The windows in [start, end) of which anything is there, in order.

    Parameters
    ----------
    rows : sequence of CountedWindow
        Of every reporter, from `start_ns` on, by their start.
    share_bp : int
        The version's share of the keys at this step. Windows under another one are no evidence about it.
    complete_to_ns : int
        Windows that end later lack the counts of a server.
    evidence_from_ns : int
        Windows that begin earlier are no evidence: what belongs to them came late, together with what lies before.
    """
    for together in _together(row for row in rows if row.start_ns >= start_ns):
        first_ns, last_ns = together[0].start_ns, max(row.end_ns for row in together)
        if last_ns > end_ns:
            return
        is_watched = last_ns <= complete_to_ns
        is_whole = is_watched and first_ns >= evidence_from_ns
        counts = _evidence(found, spec, together, share_bp, edge_ns) if is_whole else None
        yield Taken(first_ns, last_ns, counts, exposure(found, spec, together), is_watched, reached(together))


def exposure(found: RolloutRow, spec: RolloutSpec, rows: Iterable[CountedWindow]) -> Exposure:
    """What clients got of the rollout's version in these windows, and what stable did."""
    rows = tuple(rows)
    return Exposure(
        sum_side(rows, clients_of(found, spec)),
        SideCounts.empty() if spec.strategy == "blue_green" else sum_side(rows, Side(found.stable, STABLE_ROLE)),
        sum_side(rows, Side(found.stable, SHADOW_ROLE)),
    )


def reached(rows: Iterable[CountedWindow]) -> dict[tuple[str, str], int]:
    """By reporter and boot, the end of the last of these windows."""
    ends: dict[tuple[str, str], int] = {}
    for row in rows:
        ends[row.reporter, row.boot] = max(ends.get((row.reporter, row.boot), 0), row.end_ns)
    return ends


def _together(rows: Iterable[CountedWindow]) -> Iterator[list[CountedWindow]]:
    """Rows that overlap, put together: a sidecar that came late has one window where others have several."""
    found: list[CountedWindow] = []
    end_ns = 0
    for row in rows:
        if found and row.start_ns >= end_ns:
            yield found
            found = []
        found.append(row)
        end_ns = max(end_ns, row.end_ns) if len(found) > 1 else row.end_ns
    if found:
        yield found


def _evidence(
    found: RolloutRow, spec: RolloutSpec, rows: Sequence[CountedWindow], share_bp: int, edge_ns: int
) -> WindowCounts | None:
    canary, stable = _compared(found, spec)
    if spec.strategy == "blue_green":
        live = [row for row in rows if Side(row.version, row.role) == clients_of(found, spec)]
        if not live or any(row.share_bp != WHOLE_BP for row in live):
            return None
        counts = sum_window(rows, canary=canary, stable=stable, edge_ns=edge_ns, share_bp=WHOLE_BP)
    else:
        counts = sum_window(rows, canary=canary, stable=stable, edge_ns=edge_ns)
    return counts if counts is not None and counts.share_bp == share_bp else None


def clients_of(found: RolloutRow, spec: RolloutSpec) -> Side:
    """The side whose answers clients get of the rollout's version."""
    return Side(found.canary, STABLE_ROLE if spec.strategy == "blue_green" else CANARY_ROLE)


def _compared(found: RolloutRow, spec: RolloutSpec) -> tuple[Side, Side]:
    """The two sides that are compared: by keys, or of blue-green on the same requests."""
    if spec.strategy == "blue_green":
        return Side(found.canary, COMPARED_ROLE), Side(found.stable, SHADOW_ROLE)
    return Side(found.canary, CANARY_ROLE), Side(found.stable, STABLE_ROLE)
