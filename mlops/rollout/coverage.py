"""Whose counts a window needs: every server that serves the model has to have a sidecar that counts it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection

from mlops.registry.fleet import ServerReport, read_reports
from mlops.registry.rollouts import RolloutRow
from mlops.rollout.sums import Reporter, read_reporters
from mlops.rollout.sums.read import OnDamaged, refuse


@dataclass(frozen=True, slots=True)
class Coverage:
    """Up to when the counts of all servers are there, in unix time; 0 where not all of them count.

    `uncounted` are the servers that serve the model and that no living sidecar counts for.
    """

    servers: tuple[str, ...]
    complete_to_ns: int
    outputs_to_ns: int
    uncounted: tuple[str, ...]

    @property
    def hold(self) -> str:
        """Why the rollout must not advance; empty where every server is counted."""
        if not self.servers:
            return "no server that reports to this registry serves the model"
        if self.uncounted:
            return f"no sidecar counts for {', '.join(self.uncounted)}"
        return ""


def coverage(
    found: RolloutRow, servers: Sequence[ServerReport], reporters: Sequence[Reporter], now: datetime
) -> Coverage:
    """Who serves the model now, and how far the counts of each are.

    Servers that are silent or stopped serve nobody; what they answered before was counted, or is left out.
    """
    serving = tuple(each.server for each in servers if _serves(each, found))
    counts: dict[str, list[Reporter]] = {server: [] for server in serving}
    for reporter in reporters:
        if reporter.server in counts and not reporter.is_silent(now) and not reporter.has_ended:
            counts[reporter.server].append(reporter)
    uncounted = tuple(server for server, found_ in counts.items() if not found_)
    if not serving or uncounted:
        return Coverage(serving, 0, 0, uncounted)
    latest = [max(by, key=lambda each: each.complete_to_ns) for by in counts.values()]
    return Coverage(
        serving,
        min(each.complete_to_ns for each in latest),
        min(max(each.outputs_to_ns for each in by) for by in counts.values()),
        (),
    )


def read_coverage(connection: Connection, found: RolloutRow, now_ns: int, on_damaged: OnDamaged = refuse) -> Coverage:
    """The same, of what servers and sidecars said last; the time is the database's."""
    now = datetime.fromtimestamp(now_ns / 1e9, UTC)
    return coverage(found, read_reports(connection, now), read_reporters(connection, found.model, on_damaged), now)


def _serves(report: ServerReport, found: RolloutRow) -> bool:
    served = report.models.get(found.model)
    if report.state in ("silent", "stopped") or served is None:
        return False
    return bool({str(found.canary), str(found.stable)} & set(served.split))
