"""How a rollout stands, for people and for Prometheus: read from what is stored, never from a controller."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from mlops.registry.desired import read_desired
from mlops.registry.leases import Leases
from mlops.registry.rollouts import RolloutRow
from mlops.rollout.analysis import Evidence, evidence_of
from mlops.rollout.controller import LEASE
from mlops.rollout.coverage import read_coverage
from mlops.rollout.machine import Phase
from mlops.rollout.spec import RolloutSpec
from mlops.rollout.store import DamagedProgressError, Decided, Progress, read_decisions, read_progress, spec_of
from tickserve.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RolloutView:
    """One rollout at one moment.

    Parameters
    ----------
    phase : str
        `preparing` before its first share, `running`, `paused`, `finished`, `aborted`; `damaged` where what it knew is
        lost.
    step : int
        The present one, from 1.
    spec : RolloutSpec, optional
        None where this tickserve cannot read it; `evidence` is empty then.
    share_bp : int
        The version's share of the keys by desired state.
    hold : str
        Why it does not advance, whatever the evidence; empty where it may.
    controller : str
        Who holds the lease; empty where nobody does, and nothing advances.
    """

    rollout: RolloutRow
    phase: str
    step: int
    spec: RolloutSpec | None
    share_bp: int
    reason: str
    evidence: Evidence
    watched_s: float
    edge_ns: int | None
    unwatched: int
    hold: str
    controller: str
    decisions: tuple[Decided, ...]

    @property
    def steps(self) -> int | None:
        """How many there are."""
        return None if self.spec is None else len(self.spec.steps)

    @property
    def traffic_share(self) -> float | None:
        """The version's share of the requests of this step; None of blue-green, which compares the same ones."""
        return self.evidence.traffic_share if self.rollout.strategy == "canary" else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        found = self.rollout
        return {
            "rollout": found.rollout,
            "model": found.model,
            "canary": found.canary,
            "stable": found.stable,
            "strategy": found.strategy,
            "phase": self.phase,
            "step": self.step,
            "steps": self.steps,
            "share_bp": self.share_bp,
            "traffic_share": self.traffic_share,
            "reason": self.reason,
            "watched_s": self.watched_s,
            "edge_ns": self.edge_ns,
            "unwatched_windows": self.unwatched,
            "hold": self.hold,
            "controller": self.controller,
            "evidence": self.evidence.as_dict(),
            "started_at": found.started_at.isoformat(),
            "ended_at": None if found.ended_at is None else found.ended_at.isoformat(),
            "spec": dict(found.spec),
        }


def read_view(connection: Connection, found: RolloutRow, leases: Leases) -> RolloutView:
    """How a rollout stands now."""
    spec, hold = None, ""
    try:
        spec = spec_of(found)
    except ConfigurationError as error:
        hold = f"this tickserve cannot read its spec: {error.message}"
    decisions = read_decisions(connection, found.rollout)
    last = decisions[-1]
    evidence, progress, phase = Evidence(), None, "damaged"
    try:
        progress = read_progress(connection, found.rollout)
        phase = _phase(progress)
        if spec is not None:
            evidence = evidence_of(spec, progress.analysis)
    except DamagedProgressError:
        pass
    if found.ended_at is not None:
        phase, hold = last.event, ""
    elif progress is not None and not hold:
        # Whoever decides says which rows are damaged; here it shows as a server that nobody counts for.
        now_ns = leases.now_ms(connection) * 1_000_000
        since_ns = progress.state.since_unix_ns
        hold = read_coverage(connection, found, now_ns, since_ns, on_damaged=lambda error: None).hold
    desired = read_desired(connection, found.model)
    shares = {share.version: share.weight_bp for share in desired.state.split} if desired is not None else {}
    return RolloutView(
        rollout=found,
        phase=phase,
        step=progress.state.step + 1 if progress is not None else max(last.step, 1),
        spec=spec,
        share_bp=shares.get(found.canary, 0),
        reason=last.reason if found.ended_at is not None or progress is None else progress.state.reason,
        evidence=evidence,
        watched_s=progress.state.watched_ns / 1e9 if progress is not None else 0.0,
        edge_ns=None if progress is None else progress.edge_ns,
        unwatched=0 if progress is None else progress.unwatched,
        hold=hold,
        controller=leases.holder(connection, LEASE),
        decisions=decisions,
    )


def _phase(progress: Progress) -> str:
    is_preparing = progress.state.phase is Phase.RUNNING and not progress.has_begun
    return "preparing" if is_preparing else str(progress.state.phase)
