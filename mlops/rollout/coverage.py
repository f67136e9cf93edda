"""Whose counts a window needs: every server that serves the model has to have a sidecar that counts it.

A server that fell silent may serve on: only its sidecar, or itself, can say that it does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection

from mlops.registry.fleet import SILENT_AFTER, ServerReport, read_reports
from mlops.registry.rollouts import RolloutRow
from mlops.rollout.sums import Reporter, read_reporters
from mlops.rollout.sums.read import OnDamaged, refuse


@dataclass(frozen=True, slots=True)
class Coverage:
    """Up to when the counts of all servers are there, in unix time; 0 where not all of them count.

    `uncounted` are the servers that serve the model and that no living sidecar counts for, `missing` those that served
    it in the present step, are silent, and are not known to have stopped.
    """

    servers: tuple[str, ...]
    complete_to_ns: int
    outputs_to_ns: int
    uncounted: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def hold(self) -> str:
        """Why the rollout must not advance; empty where every server is seen and counted."""
        if self.missing:
            return (
                f"{', '.join(self.missing)} served the model in this step, says nothing to this registry, and is not "
                "known to have stopped: it may serve on, and obeys nobody here"
            )
        if not self.servers:
            return "no server that reports to this registry serves the model"
        if self.uncounted:
            return f"no sidecar counts for {', '.join(self.uncounted)}"
        return ""


def coverage(
    found: RolloutRow, servers: Sequence[ServerReport], reporters: Sequence[Reporter], now: datetime, since: datetime
) -> Coverage:
    """Who serves the model now, and how far the counts of each are.

    Servers that stopped serve nobody; what they answered before was counted, or is left out. Of those that are missing
    what a living sidecar counts is waited for; without one a rollout is judged by the others, and does not advance.

    Parameters
    ----------
    since : datetime
        When the present step began, or was continued: who was silent by then is none of its servers.
    """
    serving = [each for each in servers if each.state != "stopped" and _serves(each, found)]
    speaking = tuple(each.server for each in serving if each.state != "silent")
    missing = tuple(
        each.server
        for each in serving
        if each.state == "silent" and each.at >= since - SILENT_AFTER and not _has_ended(each, reporters)
    )
    counts: dict[str, list[Reporter]] = {server: [] for server in (*speaking, *missing)}
    for reporter in reporters:
        if reporter.server in counts and not reporter.is_silent(now) and not reporter.has_ended:
            counts[reporter.server].append(reporter)
    uncounted = tuple(server for server in speaking if not counts[server])
    if not speaking or uncounted:
        return Coverage(speaking, 0, 0, uncounted, missing)
    counted = [by for by in counts.values() if by]
    return Coverage(
        speaking,
        min(max(each.complete_to_ns for each in by) for by in counted),
        min(max(each.outputs_to_ns for each in by) for by in counted),
        (),
        missing,
    )


def read_coverage(
    connection: Connection, found: RolloutRow, now_ns: int, since_ns: int, on_damaged: OnDamaged = refuse
) -> Coverage:
    """The same, of what servers and sidecars said last; times are the database's."""
    now, since = (datetime.fromtimestamp(at_ns / 1e9, UTC) for at_ns in (now_ns, since_ns))
    reporters = read_reporters(connection, found.model, on_damaged)
    return coverage(found, read_reports(connection, now), reporters, now, since)


def _serves(report: ServerReport, found: RolloutRow) -> bool:
    served = report.models.get(found.model)
    return served is not None and bool({str(found.canary), str(found.stable)} & set(served.split))


def _has_ended(report: ServerReport, reporters: Sequence[Reporter]) -> bool:
    """Whether its sidecar saw the end of the life that the report is of."""
    told = [each for each in reporters if each.server == report.server]
    latest = max(told, key=lambda each: each.at, default=None)
    return latest is not None and latest.has_ended and latest.at >= report.at
