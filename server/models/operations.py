"""What operators, controllers and the breaker do to one server: each change attributed, obeyed at once, and kept."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

import structlog

from server.models.desiring import Desiring
from server.models.local import Mark, Overrides
from server.models.reconciler import Reconciler
from server.models.records import ModelRecord
from server.models.values import ModelDesired, Target, only
from server.plan import Halt, Plan
from tickserve.errors import Code, ControlError, TickserveError

_log = structlog.get_logger()
#: The reason of a halt that a repository's unload made; only such a one ends with a load.
UNLOADED = "unloaded by RepositoryModelUnload"

#: Within this time what is desired is read again where somebody else wrote it, in seconds.
_REREAD_S = 2.0
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A version that answers again, and the plan that serves it.

    `not_desired` says why desired state does not say so too; it is empty where it does.
    """

    version: str
    plan: Plan
    not_desired: str


class Operations:
    """Changes of what one server does. Every method may be called on any thread; `wake` starts a pass.

    What is written into desired state is waited for `within_s` seconds: less than callers wait.
    """

    def __init__(
        self, reconciler: Reconciler, wake: Callable[[], object] = lambda: None, *, within_s: float = 60.0
    ) -> None:
        self._reconciler = reconciler
        self._events = reconciler.events
        self._wake = wake
        self._desiring = Desiring(reconciler.source.name, within_s)

    def halt(self, model: str, *, actor: str, reason: str) -> list[str]:
        """Stops the answers of one model, or of all where `model` is empty; durable before it returns."""
        halt = Halt(reason, actor, time.time_ns())
        names = self._reconciler.named(model)
        self._reconciler.change_halts(lambda halts: {**halts, **dict.fromkeys(names, halt)})
        unwritten = self._reconciler.keep_halts()
        self._tell("halted", names, actor, reason)
        _require_written(unwritten)
        return names

    def resume(self, model: str, *, actor: str, reason: str) -> list[str]:
        """Ends the halt of one model, or of all where `model` is empty; returns those that were halted here.

        Raises
        ------
        ControlError
            FAILED_PRECONDITION where it is desired state that halts the model.
        """
        names: list[str] = []

        def change(before: Mapping[str, Halt]) -> dict[str, Halt]:
            # A halt can also be lifted while the model's folder is away.
            asked = [model] if model in before else self._reconciler.named(model) if model else sorted(before)
            names[:] = [name for name in asked if name in before]
            return {name: halt for name, halt in before.items() if name not in names}

        self._reconciler.change_halts(change)
        unwritten = self._reconciler.keep_halts()
        self._tell("resumed", names, actor, reason)
        _require_written(unwritten)
        if model and not names:
            halt = self._record(model).desired.halt
            if halt is not None:
                raise _halted_by_desired(model, halt)
        return names

    def follow(self, model: str, *, is_following: bool, actor: str, reason: str) -> list[str]:
        """Holds one model, or all, at what it serves; or lets it follow desired state again, taken-out versions too.

        What failed is tried again at once where it follows.

        Returns the models that this changed.
        """
        names = self._reconciler.named(model)
        mark = Mark(actor, reason, time.time_ns())
        overrides = self._reconciler.snapshot().overrides
        if is_following:
            changed = [name for name in names if name in overrides.held or overrides.refused.get(name)]
        else:
            changed = [name for name in names if name not in overrides.held]

        def change(found: Overrides) -> Overrides:
            for name in changed:
                found = found.released(name) if is_following else found.with_held({name: mark})
            return found

        self._reconciler.change_overrides(change)
        unwritten = self._reconciler.keep_overrides()
        if is_following:
            for name in names:
                self._reconciler.retry(name)
        self._tell("following" if is_following else "held", changed, actor, reason)
        self._wake()
        _require_written(unwritten)
        return changed

    def rollback(self, model: str, *, actor: str, reason: str) -> RolledBack:
        """Makes the version that is kept warm answer everything, at once; then says so in desired state.

        What it leaves is not served here until desired state has been written since, by this or anyone, or `follow`
        releases it.

        Raises
        ------
        ControlError
            FAILED_PRECONDITION where no version is kept warm; INTERNAL where it answers, and neither desired state nor
            this server's disk could be told.
        """
        self._reconciler.named(model)
        mark = Mark(actor, reason, time.time_ns())
        left, version, plan = self._go_back(model, mark)
        unwritten = self._reconciler.keep_overrides()
        self._tell("rolled_back", [model], actor, reason, version)
        why = f"rolled back from version {left}" + (f": {reason}" if reason else "")

        def desire() -> str:
            try:
                revision = self._desire_back(model, left, version, actor=actor, why=why)
                known = replace(mark, until_revision=revision)
                self._reconciler.change_overrides(lambda overrides: overrides.refusing(model, left, known))
                self._reconciler.keep_overrides()
            except TickserveError as error:
                self._not_desired(model, version, actor, error.message)
                return error.message
            return ""

        def late(done: "Future[str]") -> None:
            error = done.exception()
            if error is not None:
                self._not_desired(model, version, actor, str(error))

        # Whoever asked for it in a hurry does not wait for a source that does not answer.
        desiring = self._desiring.start(desire)
        try:
            not_desired = desiring.result(self._desiring.within_s)
        except TimeoutError:
            desiring.add_done_callback(late)
            name, within_s = self._reconciler.source.name, self._desiring.within_s
            not_desired = f"the {name} has not answered for {within_s:g} s; it is told once it does"
            self._not_desired(model, version, actor, not_desired)
        if not_desired:
            _require_written(unwritten)
        return RolledBack(version, plan, not_desired)

    def trip(self, model: str, version: str, why: str, *, halts: bool, is_slow: bool = False) -> None:
        """Takes a version out by the server's own decision: back to the version before, or halted where `halts`.

        Without a version to go back to, bad answers halt the model; late ones are told and nothing else. No disk is
        waited for: the pass that this starts writes what was decided.
        """
        mark = Mark("breaker", why, time.time_ns())
        if not halts:
            try:
                _, back, _ = self._go_back(model, mark, leaving=version)
            except ControlError as error:
                if error.code is Code.NOT_FOUND:
                    # It went while its counts were looked at, and must not come back halted.
                    return
                why = f"{why}; {error.message}"
            else:
                _log.error("breaker_tripped", model=model, version=version, back_to=back, why=why)
                self._events.add("breaker_tripped", model=model, version=version, message=f"{why}; back to {back}")
                return
            if is_slow:
                _log.error("breaker_without_way_back", model=model, version=version, why=why)
                self._events.add("breaker_without_way_back", model=model, version=version, message=why)
                return
        halt = Halt(f"breaker: version {version}: {why}", "breaker", mark.since_unix_ns)
        self._reconciler.change_halts(lambda before: {**before, model: halt})
        self._wake()
        _log.error("breaker_halted", model=model, version=version, why=why)
        self._events.add("breaker_halted", model=model, version=version, message=why)

    def set_desired(
        self, model: str, target: Target, halt: Halt | None, expected_revision: int | None, *, actor: str, reason: str
    ) -> int:
        """Writes what one model should serve, and returns the revision.

        Raises
        ------
        TickserveError
            DEADLINE_EXCEEDED where the source does not answer: it may be written then, or not, and events tell.
            UNAVAILABLE where earlier changes wait for it: nothing was written.
        """

        def write() -> int:
            revision = self._reconciler.source.write(model, target, halt, expected_revision, actor=actor, reason=reason)
            text = f"revision {revision}: {reason}"
            self._events.add("desired", model=model, version=target.stable, actor=actor, message=text)
            self._wake()
            return revision

        def late(error: BaseException) -> None:
            _log.error("not_desired", model=model, error=str(error))
            self._events.add("not_desired", model=model, version=target.stable, actor=actor, message=str(error))

        return self._desiring.run(model, write, late)

    def unload(self, model: str, *, actor: str) -> None:
        """Stops a model's answers as `halt` does, for a tool that speaks of loading; durable before it returns."""
        names = self._reconciler.named(model)
        halt = Halt(UNLOADED, actor, time.time_ns())
        # A halt that is there stays whose it is: `load` ends this one.
        self._reconciler.change_halts(lambda halts: {**dict.fromkeys(names, halt), **halts})
        unwritten = self._reconciler.keep_halts()
        self._tell("halted", names, actor, UNLOADED)
        _require_written(unwritten)

    def load(self, model: str, *, actor: str) -> None:
        """Ends what `unload` did, and tries again at once what failed.

        Raises
        ------
        ControlError
            FAILED_PRECONDITION where somebody else halted the model; NOT_FOUND where it is not known.
        """
        self._reconciler.named(model)
        here = self._reconciler.halts.get(model)
        desired = self._record(model).desired.halt
        if here is not None and here.reason != UNLOADED:
            raise ControlError(
                f"model {model!r} was halted by {here.actor}: {here.reason}; `tickserve resume {model}` ends that",
                code=Code.FAILED_PRECONDITION,
            )
        if here is not None:
            self.resume(model, actor=actor, reason="RepositoryModelLoad")
        if desired is not None:
            raise _halted_by_desired(model, desired)
        self._reconciler.retry(model)
        self._wake()

    def _not_desired(self, model: str, version: str, actor: str, why: str) -> None:
        """Says that a version stays out here all the same, and that somebody has to tell the others."""
        _log.error("rollback_not_desired", model=model, error=why)
        self._events.add("rollback_not_desired", model=model, version=version, actor=actor, message=why)

    def _desire_back(self, model: str, left: str, version: str, *, actor: str, why: str) -> int:
        """Writes that a version is back, on top of whatever else is desired by now, and returns that revision."""
        only_back = only(version, schema_override=version)
        desired = self._record(model).desired
        while True:
            target = only_back
            if desired.targets:
                target = replace(
                    desired.targets[0], shares=target.shares, segments=(), pins=target.pins, schema_override=version
                )
            try:
                return self._reconciler.source.write(
                    model, target, desired.halt, desired.revision, actor=actor, reason=why
                )
            except TickserveError as error:
                # Somebody wrote meanwhile, perhaps a halt, which must not be written over unread.
                newer = self._desired_after(model, desired.revision) if error.code is Code.ABORTED else None
                if newer is None:
                    raise
                desired = newer
            if desired.targets and left not in desired.targets[0].required:
                raise ControlError(
                    f"version {desired.wanted} of model {model!r} is desired by now (revision {desired.revision})",
                    code=Code.ABORTED,
                )

    def _desired_after(self, model: str, revision: int) -> ModelDesired | None:
        """What is desired of a model once that is another revision; None where it is not read in time."""
        pause = threading.Event()
        for _ in range(round(_REREAD_S / _PAUSE_S)):
            desired = self._record(model).desired
            if desired.revision != revision:
                return desired
            pause.wait(_PAUSE_S)
        return None

    def _go_back(self, model: str, mark: Mark, leaving: str = "") -> tuple[str, str, Plan]:
        """Takes out the stable version, or `leaving`, at once. Returns what left, what is stable then, and the plan."""
        left = leaving

        def choose(record: ModelRecord) -> Target:
            nonlocal left
            stable = record.target.stable if record.target else ""
            left = left or stable
            back = record.previous if left == stable else stable
            if record.target is None or not back:
                raise ControlError(
                    f"model {model!r} keeps no earlier version warm to go back to; promote one",
                    code=Code.FAILED_PRECONDITION,
                )
            rules = record.loaded[back].rules
            one = only(back)
            return replace(
                record.target, shares=one.shares, segments=(), pins=one.pins, schema_override=back, rules=rules
            )

        record = self._reconciler.switch_now(model, choose, lambda overrides: overrides.refusing(model, left, mark))
        self._wake()
        return left, record.target.stable if record.target else "", self._reconciler.snapshot().plan

    def _record(self, model: str) -> ModelRecord:
        for record in self._reconciler.snapshot().models:
            if record.name == model:
                return record
        raise ControlError(f"model {model!r} is gone", code=Code.NOT_FOUND, field="model")

    def _tell(self, kind: str, models: list[str], actor: str, reason: str, version: str = "") -> None:
        _log.warning(kind, models=models, actor=actor, reason=reason)
        for model in models:
            self._events.add(kind, model=model, version=version, actor=actor, message=reason)


def _halted_by_desired(model: str, halt: Halt) -> ControlError:
    return ControlError(
        f"model {model!r} is halted by desired state ({halt.actor}: {halt.reason}); change that "
        f"(tickserve desired set {model} --no-halt, with a registry)",
        code=Code.FAILED_PRECONDITION,
    )


def _require_written(unwritten: OSError | None) -> None:
    if unwritten is not None:
        raise ControlError(
            f"obeyed, but not written: it will not survive a restart before the disk takes it ({unwritten.strerror})",
            code=Code.INTERNAL,
        )
