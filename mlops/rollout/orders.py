"""What people tell rollouts: start, pause, continue, abort, finish.

None of it needs the lease. Each is one transaction that goes through the rollout's own decision, so an abort works
while no controller lives, and what a controller decided meanwhile on what was there before is not written.
"""

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection

from mlops.package import Manifest
from mlops.registry import Author, Desired, GatePolicy, GateReport, Registry
from mlops.registry.desired import check_state, read_desired, read_manifest, require_desired, write_state
from mlops.registry.journal import Write, require_reason
from mlops.registry.leases import DatabaseClock, database_now_ms
from mlops.registry.lookup import require_model, require_version
from mlops.registry.rollouts import (
    RolloutRow,
    end_rollout,
    insert_decision,
    open_rollout,
    read_rollout,
    require_no_rollout,
    taken_back,
)
from mlops.registry.schema import rollouts
from mlops.rollout import desired as states
from mlops.rollout.analysis import evidence_of
from mlops.rollout.applying import apply, restored_place
from mlops.rollout.machine import Command, DesiredChange, Order, RolloutState, decide, share_of
from mlops.rollout.outputs import MIN_BUCKETS
from mlops.rollout.spec import RolloutSpec
from mlops.rollout.stepping import Moved
from mlops.rollout.store import (
    DamagedProgressError,
    Progress,
    insert_progress,
    read_progress,
    replace_progress,
    spec_of,
)
from tickserve.errors import Code, ConfigurationError, ControlError, RegistryError, UnknownError

DEFAULT_POLICY = GatePolicy()


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of one registry.

    Parameters
    ----------
    now_ms : callable
        The database's clock; replaced in tests.
    """

    registry: Registry
    now_ms: DatabaseClock = database_now_ms

    def start(
        self,
        model: str,
        version: int,
        spec: RolloutSpec,
        author: Author,
        policy: GatePolicy = DEFAULT_POLICY,
    ) -> tuple[RolloutRow, GateReport]:
        """Starts a rollout. No request goes to the version before a controller has looked at it.

        Raises
        ------
        GateError
            Where the version's gates do not let it be promoted.
        RegistryError
            Where another rollout of the model is open, the model's split is not one version, a shadow runs, the model
            is halted, or the version cannot be compared as the spec says.
        """
        require_reason(author)

        def check(connection: Connection) -> None:
            require_model(connection, model)
            require_no_rollout(connection, model, "another rollout")
            _require_ready(read_desired(connection, model), model, version)
            _require_outputs(read_manifest(connection, require_version(connection, model, version).digest), spec)

        def change(write: Write, now: Desired | None) -> RolloutRow:
            return self._insert(write, _require_ready(now, model, version), version, spec)

        return self.registry.promoter.gated("rollout-start", model, version, policy, author, check, change)

    def order(self, model: str, order: Order, author: Author) -> RolloutRow:
        """Tells the open rollout of a model to pause, continue, abort or finish.

        Raises
        ------
        UnknownError
            Where none is open.
        ControlError
            Where the order does not fit: FAILED_PRECONDITION.
        """
        require_reason(author)
        return self.registry.journal.write(
            f"rollout-{order}", author, lambda write: self.obey(write, model, order), model=model
        )

    def obey(self, write: Write, model: str, order: Order) -> RolloutRow:
        """The same within a transaction."""
        found = open_rollout(write.connection, model)
        if found is None:
            require_model(write.connection, model)
            raise UnknownError(f"no rollout of model {model!r} is open", field="rollout")
        desired = require_desired(write.connection, model)
        try:
            spec = spec_of(found)
        except ConfigurationError:
            if order is not Order.ABORT:
                raise
            # Nothing of it is needed to take a version back, and nobody else bounds what that does.
            return self._take_back(write, found, desired)
        progress = self._progress(write, found, order)
        change = None
        if not states.is_in_order(desired.state, found, spec, progress.state.step, progress.edge_ns):
            change = _put_right(found, spec, progress, desired, order)
        evidence = evidence_of(spec, progress.analysis)
        command = Command(order, write.author.actor, write.author.reason)
        decision = decide(spec, progress.state, evidence, command, self.now_ms(write.connection) * 1_000_000)
        apply(write, found, spec, Moved(progress, decision), desired.revision, change=change)
        return _read_again(write, found)

    def _take_back(self, write: Write, found: RolloutRow, desired: Desired) -> RolloutRow:
        """Ends a rollout whose spec this tickserve cannot read."""
        state = taken_back(desired.state, found.canary, found.stable)
        restores = restored_place(write, found, desired, state)
        written = write_state(write, found.model, state, desired.revision, restores=restores)
        end_rollout(write, found, written.revision, "rollout abort")
        return _read_again(write, found)

    def _insert(self, write: Write, now: Desired, version: int, spec: RolloutSpec) -> RolloutRow:
        stable = now.state.named("stable")
        if stable is None:
            raise AssertionError("a split that was checked has one")
        salt = f"rollout-{write.sequence}-{secrets.token_hex(8)}"
        found = RolloutRow(
            write.sequence,
            now.model,
            version,
            stable,
            spec.model_dump(mode="json"),
            salt,
            write.author.actor,
            write.author.reason,
            write.at,
            None,
        )
        # What the first step would be refused for is said now, not when nobody looks any more.
        check_state(write, now.model, now.state, states.at_step(now.state, found, spec, 0, 0, salt))
        write.insert(rollouts, **{name: getattr(found, name) for name in found.__dataclass_fields__})
        insert_decision(
            write,
            found.rollout,
            event="ordered",
            step=1,
            share_bp=share_of(spec, 0),
            actor=found.actor,
            reason=found.reason,
            facts={"spec": found.spec, "salt": salt, "canary": version, "stable": stable},
            revision=now.revision,
        )
        now_ns = self.now_ms(write.connection) * 1_000_000
        state = RolloutState(since_unix_ns=now_ns, looked_unix_ns=now_ns, reason=found.reason)
        progress = Progress(1, state, desired_revision=now.revision, began_ns=now_ns)
        insert_progress(write.connection, found.rollout, progress)
        return found

    def _progress(self, write: Write, found: RolloutRow, order: Order) -> Progress:
        try:
            return read_progress(write.connection, found.rollout)
        except DamagedProgressError as error:
            if order is not Order.ABORT:
                raise RegistryError(
                    f"{error.message}: what it knew is lost, so it can only be aborted "
                    f"(tickserve rollout abort {found.model})",
                    field="rollout_progress",
                ) from None
            progress = Progress(error.revision, RolloutState())
            replace_progress(write.connection, found.rollout, progress)
            return progress


def _read_again(write: Write, found: RolloutRow) -> RolloutRow:
    after = read_rollout(write.connection, found.rollout)
    if after is None:
        raise AssertionError("rollouts are never removed")
    return after


def _put_right(
    found: RolloutRow, spec: RolloutSpec, progress: Progress, desired: Desired, order: Order
) -> DesiredChange | None:
    """What an order does where the desired state is not as the rollout left it."""
    if order in (Order.PAUSE, Order.ABORT):
        return None
    if order is Order.CONTINUE and progress.has_begun:
        return DesiredChange(share_of(spec, progress.state.step), "as the rollout has it")
    raise ControlError(
        f"revision {desired.revision} of the desired state is not the rollout's: {desired.actor} changed who gets "
        f"which requests ({desired.reason}); "
        + ("continue it first, or abort it" if progress.has_begun else "abort it, and start it anew"),
        code=Code.FAILED_PRECONDITION,
    )


def _require_ready(now: Desired | None, model: str, version: int) -> Desired:
    """Raises RegistryError where a rollout cannot begin from this desired state."""
    if now is None or not now.state.split:
        raise RegistryError(f"nothing of model {model!r} is live; promote a version first", field="split")
    state = now.state
    if len(state.split) != 1:
        shares = ", ".join(f"{share.version}={share.weight_bp / 100:g}%" for share in state.split)
        raise RegistryError(
            f"the split of model {model!r} is {shares}; a rollout begins where one version has everything "
            f"(tickserve split set {model})",
            field="split",
        )
    if state.named("stable") == version:
        raise RegistryError(f"version {version} of model {model!r} is live already", field="version")
    if state.shadow is not None:
        raise RegistryError(
            f"version {state.shadow.version} of model {model!r} is a shadow, and a rollout needs that place "
            f"(tickserve desired set {model} --shadow none)",
            field="shadow",
        )
    if state.halt is not None:
        raise RegistryError(f"model {model!r} is halted: {state.halt.reason}", field="halt")
    return now


def _require_outputs(manifest: Manifest, spec: RolloutSpec) -> None:
    """Raises RegistryError where outputs are to be judged that the package says nothing about."""
    if spec.analysis.psi is not None:
        if not manifest.baseline_outputs:
            raise RegistryError("psi cannot be judged: the package has no baseline of outputs", field="psi")
        if manifest.datasets[manifest.baseline_outputs].order == "unknown":
            raise RegistryError(
                "psi cannot be judged: the rows of the package's baseline of outputs have no times, so they are one "
                f"block, and {MIN_BUCKETS} are needed",
                field="psi",
            )
    if spec.analysis.sign_flips is not None and manifest.signal is None:
        raise RegistryError(
            "sign_flips cannot be judged: the package says of no output that it is the signal", field="sign_flips"
        )
