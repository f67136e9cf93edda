"""Taking traffic away from versions for the sake of an alert: by the rollout's own decision where one is open."""

from dataclasses import dataclass

from mlops.registry import Registry
from mlops.registry.desired import read_desired, roll_back, write_state
from mlops.registry.journal import Write
from mlops.registry.rollouts import open_rollout
from mlops.registry.values import Share
from mlops.rollout.machine import Order
from mlops.rollout.orders import Rollouts
from mlops.routing import WHOLE_BP
from tickserve.errors import UnknownError


@dataclass(frozen=True)
class Traffic:
    """Changes of one registry, each within a transaction of the caller's, that do nothing where it is so already."""

    registry: Registry

    def reduce_share(self, write: Write, model: str) -> bool:
        """Takes every canary's share to 0, the one of an open rollout by aborting that; False without canaries."""
        if open_rollout(write.connection, model) is not None:
            Rollouts(self.registry).obey(write, model, Order.ABORT)
            return True
        found = read_desired(write.connection, model)
        stable = found.state.named("stable") if found is not None else None
        if found is None or stable is None or len(found.state.split) == 1:
            return False
        split = (Share(version=stable, role="stable", weight_bp=WHOLE_BP),)
        shadow = found.state.shadow
        kept = None if shadow is not None and shadow.of is not None and shadow.of != stable else shadow
        state = found.state.model_copy(update={"split": split, "segments": (), "shadow": kept})
        write_state(write, model, state, found.revision)
        return True

    def roll_back(self, write: Write, model: str, version: str) -> bool:
        """Makes the version before live again; False where `version` is not the live one, or none was before.

        An open rollout ends. One of blue-green that made the version live goes back by that.
        """
        found = read_desired(write.connection, model)
        if found is None or not _is_live(write, model, version):
            return False
        is_open = open_rollout(write.connection, model) is not None
        if is_open:
            Rollouts(self.registry).obey(write, model, Order.ABORT)
            if found.state.named("stable") != _stable(write, model):
                return True
        try:
            roll_back(write, model, None)
        except UnknownError:
            return is_open
        return True


def _is_live(write: Write, model: str, version: str) -> bool:
    return version in ("", str(_stable(write, model)))


def _stable(write: Write, model: str) -> int | None:
    found = read_desired(write.connection, model)
    return found.state.named("stable") if found is not None else None
