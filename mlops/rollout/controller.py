"""Runs open rollouts: looks at what was counted, decides, and writes that, fenced by the lease.

It can be killed between any two statements: what a step decides, the desired state, the audit log and the progress are
one transaction. One that was stopped for longer than its lease writes nothing when it wakes. While none lives nothing
advances; the next one goes on from what is stored.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection

from mlops import histogram
from mlops.registry import Author, Registry
from mlops.registry.desired import read_desired, require_desired
from mlops.registry.journal import Write
from mlops.registry.leases import Lease, LeaseLostError, Leases
from mlops.registry.rollouts import RolloutRow, all_open, read_rollout
from mlops.rollout.alarms import Alarm
from mlops.rollout.analysis import Evidence, StepOutputs
from mlops.rollout.applying import apply
from mlops.rollout.counts import Counts
from mlops.rollout.coverage import read_coverage
from mlops.rollout.machine import CONTROLLER, Audit, Decision, DesiredChange, Phase, RolloutState, pause
from mlops.rollout.spec import RolloutSpec
from mlops.rollout.step_outputs import read_step_outputs
from mlops.rollout.stepping import Look, Moved, go_on, prepare
from mlops.rollout.store import DamagedProgressError, Progress, read_progress, replace_progress, spec_of
from mlops.rollout.sums import CountedWindow, Side, outputs_of, read_late, read_outputs, read_windows
from mlops.rollout.sums.read import OnDamaged, refuse
from mlops.rollout.windows import window_ns_of
from mlops.tap.layout import STABLE_ROLE
from tickserve.errors import ConfigurationError, ConflictError, RegistryError, TickserveError, UnreachableError

#: The name of the lease: one controller acts for all rollouts of a registry.
LEASE = "rollouts"


@dataclass
class Controller:
    """Steps of every open rollout of one registry.

    Parameters
    ----------
    leases : Leases
        By whose clock everything goes: the database's.
    baseline : callable
        Counts of a version's baseline of its first output by block, shape (blocks, bins); None where there are none.
    tell : callable
        Takes each alarm, after what it is about was written.
    on_damaged : callable
        Takes what names a damaged row of counts. Where it returns, it is as if that were not there: to look at nothing
        for the sake of one row would leave the version its share with nobody to judge it.
    """

    registry: Registry
    leases: Leases
    baseline: Callable[[str, int], Counts | None]
    tell: Callable[[Alarm], None] = lambda alarm: None
    on_damaged: OnDamaged = refuse

    def step_all(self, lease: Lease) -> None:
        """One step of each open rollout; one that fails stops no other, and is raised after them.

        Raises
        ------
        LeaseLostError
            Where another one acts by now.
        UnreachableError
            Where the database does not answer.
        """
        with self.registry.journal.database.read() as connection:
            found = all_open(connection)
        faults: list[TickserveError] = []
        for rollout in found:
            try:
                self.step(rollout, lease)
            except (LeaseLostError, UnreachableError):
                raise
            except ConflictError:
                # Somebody decided meanwhile: the next look begins from that.
                continue
            except TickserveError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def step(self, found: RolloutRow, lease: Lease) -> Progress | None:
        """Looks at one rollout, and writes what follows; None where nothing is to be written.

        Raises
        ------
        LeaseLostError
            Where the lease is another one's by now.
        ConflictError
            Where somebody decided meanwhile: the next step looks again.
        ConfigurationError
            Where this tickserve cannot read the spec: it is paused then, and people are told once.
        """
        try:
            spec = spec_of(found)
        except ConfigurationError as error:
            self._pause_unread(found, error, lease)
            raise
        try:
            moved, expected = self._look(found, spec)
        except DamagedProgressError as error:
            return self._take_back(found, spec, error, lease)
        if moved is None:
            return None
        try:
            return self._write(found, spec, moved, expected, lease)
        except ConflictError:
            raise
        except RegistryError as error:
            if moved.decision.change is None or moved.decision.state.phase is Phase.ABORTED:
                raise
            # What the step needs cannot be, for instance because its version was retired: nothing moves, people look.
            return self._write(found, spec, self._stopped(found, error), expected, lease)

    def _look(self, found: RolloutRow, spec: RolloutSpec) -> tuple[Moved | None, int]:
        with self.registry.journal.database.read() as connection:
            progress = read_progress(connection, found.rollout)
            desired = require_desired(connection, found.model)
            now_ns = self.leases.now_ms(connection) * 1_000_000
            covered = read_coverage(connection, found, now_ns, progress.state.since_unix_ns, self.on_damaged)
            rows: tuple[CountedWindow, ...] = ()
            if progress.has_begun:
                # It may have to go back to where it counted last: see `resumed`.
                first_ns = min(progress.next_window_ns, progress.counted_to_ns)
                late = read_late(
                    connection, found.model, progress.began_ns, first_ns, progress.reached, self.on_damaged
                )
                rows = (*late, *read_windows(connection, found.model, first_ns, self.on_damaged))
            look = Look(now_ns, covered, rows, desired)
            if not progress.has_begun:
                latencies = self._latencies(connection, found, spec, progress.began_ns, now_ns)
                moved = prepare(found, spec, progress, look, latencies)
            else:

                def outputs(start_ns: int, end_ns: int) -> StepOutputs:
                    return read_step_outputs(connection, found, spec, start_ns, end_ns, self.baseline, self.on_damaged)

                moved = go_on(found, spec, progress, look, outputs)
        return (moved if self._is_worth_writing(spec, progress, moved) else None), desired.revision

    def _is_worth_writing(self, spec: RolloutSpec, before: Progress, moved: Moved) -> bool:
        """Whether something was decided or counted, or so much time passed that it has to be kept."""
        if moved.decision.audit or moved.progress.next_window_ns != before.next_window_ns:
            return True
        if moved.progress.reached != before.reached:
            return True
        passed_ns = moved.progress.state.looked_unix_ns - before.state.looked_unix_ns
        return moved.progress.state.phase is Phase.RUNNING and (passed_ns < 0 or passed_ns >= window_ns_of(spec))

    def _write(
        self,
        found: RolloutRow,
        spec: RolloutSpec | None,
        moved: Moved,
        expected: int,
        lease: Lease,
        replaces: Progress | None = None,
    ) -> Progress:
        audit = moved.decision.audit

        def change(write: Write) -> tuple[Progress, int]:
            self.leases.check(write.connection, lease)
            now = read_rollout(write.connection, found.rollout)
            if now is None or now.ended_at is not None:
                raise ConflictError(f"rollout {found.rollout} has ended", field="rollout")
            if replaces is not None:
                replace_progress(write.connection, found.rollout, replaces)
            progress = apply(write, found, spec, moved, expected)
            # Again: one that was stopped since then, for longer than its lease, has nothing to say any more.
            self.leases.check(write.connection, lease)
            return progress, write.sequence

        author = Author(audit[0].actor, audit[0].reason) if audit else Author(CONTROLLER)
        action = f"rollout-{audit[0].event}" if audit else "rollout"
        progress, sequence = self.registry.journal.write(
            action, author, change, model=found.model, version=found.canary
        )
        for place, each in enumerate(audit):
            if each.is_alarm:
                self.tell(Alarm(found.rollout, found.model, found.canary, each.event, each.reason, sequence, place))
        return progress

    def _stopped(self, found: RolloutRow, error: RegistryError) -> Moved:
        with self.registry.journal.database.read() as connection:
            progress = read_progress(connection, found.rollout)
            now_ns = self.leases.now_ms(connection) * 1_000_000
        reason = f"the next step cannot be written: {error.message}"
        decision = pause(progress.state, Evidence(), reason, now_ns)
        return Moved(replace(progress, state=decision.state), decision)

    def _pause_unread(self, found: RolloutRow, error: ConfigurationError, lease: Lease) -> None:
        """Nobody judges what the version does, which keeps its share: a reader of the spec may come, or people act."""
        reason = (
            f"the sidecar that decides cannot read its spec ({error.message}), so nobody judges version "
            f"{found.canary}, which keeps its share; give the sidecars the release that started it and continue it, or "
            f"abort it (tickserve rollout abort {found.model})"
        )
        try:
            with self.registry.journal.database.read() as connection:
                progress = read_progress(connection, found.rollout)
                now_ns = self.leases.now_ms(connection) * 1_000_000
        except DamagedProgressError as damaged:
            self._take_back(found, None, damaged, lease)
            return
        if progress.state.phase is Phase.PAUSED and progress.state.reason == reason:
            return
        decision = pause(progress.state, Evidence(), reason, now_ns)
        self._write(found, None, Moved(replace(progress, state=decision.state), decision), 0, lease)

    def _take_back(
        self, found: RolloutRow, spec: RolloutSpec | None, error: DamagedProgressError, lease: Lease
    ) -> Progress:
        """What a rollout knew is lost, its bad answers too: the version goes, for nobody can bound them any more."""
        with self.registry.journal.database.read() as connection:
            desired = read_desired(connection, found.model)
            now_ns = self.leases.now_ms(connection) * 1_000_000
        reason = f"{error.message}, so nothing bounds what its version does"
        state = RolloutState(phase=Phase.ABORTED, looked_unix_ns=now_ns, reason=reason)
        audit = Audit("aborted", CONTROLLER, reason, {"share_bp": 0}, is_alarm=True)
        decision = Decision(state, DesiredChange(0, reason), (audit,))
        fresh = Progress(error.revision, state)
        revision = desired.revision if desired is not None else 0
        return self._write(found, spec, Moved(fresh, decision), revision, lease, replaces=fresh)

    def _latencies(
        self, connection: Connection, found: RolloutRow, spec: RolloutSpec, since_ns: int, now_ns: int
    ) -> Counts:
        """Stable's latencies since the rollout was ordered: whole ones, or of blue-green those of the model's run."""
        if spec.analysis.latency is None:
            return np.zeros(histogram.BUCKETS, np.int64)
        outputs = read_outputs(connection, found.model, since_ns, now_ns, self.on_damaged)
        total = outputs_of(outputs, Side(found.stable, STABLE_ROLE))
        if total is None:
            return np.zeros(histogram.BUCKETS, np.int64)
        return total.run_ns if spec.strategy == "blue_green" else total.total_ns
