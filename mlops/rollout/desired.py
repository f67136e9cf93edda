"""What the desired state of a model is to be while a rollout is open, and after: pure."""

from mlops.registry.rollouts import RolloutRow, moves_traffic, taken_back, without_watch
from mlops.registry.values import DesiredState, Shadow, Share
from mlops.rollout.machine import share_of
from mlops.rollout.spec import RolloutSpec
from mlops.routing import WHOLE_BP


def before_first(state: DesiredState, found: RolloutRow) -> DesiredState:
    """The state that a rollout begins from: one version has everything."""
    return state.model_copy(update={"split": _whole(found.stable), "segments": ()})


def at_step(
    state: DesiredState, found: RolloutRow, spec: RolloutSpec, step: int, edge_ns: int, salt: str
) -> DesiredState:
    """The state of a step: its share, under the rollout's salt, with whom it is compared as a shadow."""
    share_bp = share_of(spec, step)
    if spec.strategy == "blue_green":
        split, shadow, of = _whole(found.canary), found.stable, found.canary
    else:
        canary = Share(version=found.canary, role="canary", weight_bp=share_bp)
        split = (canary, Share(version=found.stable, role="stable", weight_bp=WHOLE_BP - share_bp))
        shadow, of = found.stable, found.canary
    sampled = (
        Shadow(version=shadow, fraction_bp=spec.shadow_bp, salt=f"{salt}/shadow", of=of) if spec.shadow_bp else None
    )
    changes = {"split": split, "segments": (), "salt": salt, "shadow": sampled, "latency_edge_ns": edge_ns}
    return state.model_copy(update=changes)


def after(state: DesiredState, found: RolloutRow, *, is_finished: bool) -> DesiredState:
    """The state once the rollout is over: the version has everything, or nothing."""
    if not is_finished:
        return taken_back(state, found.canary, found.stable)
    split = state.model_copy(update={"split": _whole(found.canary), "segments": ()})
    return without_watch(split, found.canary, found.stable)


def is_in_order(state: DesiredState, found: RolloutRow, spec: RolloutSpec, step: int, edge_ns: int | None) -> bool:
    """Whether the state is what the rollout left: somebody may have changed who gets which requests since."""
    if edge_ns is None:
        return not moves_traffic(state, before_first(state, found)) and state.shadow is None and state.halt is None
    return not moves_traffic(state, at_step(state, found, spec, step, edge_ns, found.salt))


def _whole(version: int) -> tuple[Share, ...]:
    return (Share(version=version, role="stable", weight_bp=WHOLE_BP),)
