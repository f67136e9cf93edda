"""The outputs of one step, of all servers: what `psi` and `sign_flips` are judged by."""

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Connection

from mlops.registry.figures import last_steps, read_metrics
from mlops.registry.rollouts import RolloutRow
from mlops.rollout.analysis import StepOutputs
from mlops.rollout.counts import Counts
from mlops.rollout.guard import LiveFigure
from mlops.rollout.spec import RolloutSpec
from mlops.rollout.sums import Side, drop_share, outputs_of, read_outputs
from mlops.rollout.sums.read import OnDamaged
from mlops.rollout.windows import clients_of
from mlops.tap.layout import COMPARED_ROLE

#: The data set that the sidecar records live figures under.
LIVE = "live"
#: Where the log lost more of the records of a step, its outputs say nothing: what was lost need not be like the rest.
MAX_LOST = 0.001


def read_step_outputs(
    connection: Connection,
    found: RolloutRow,
    spec: RolloutSpec,
    start_ns: int,
    end_ns: int,
    baseline: Callable[[str, int], Counts | None],
    on_damaged: OnDamaged,
) -> StepOutputs:
    """Bins of the version's answers to clients, and pairs with stable's shadow, in the windows in [start, end)."""
    windows = read_outputs(connection, found.model, start_ns, end_ns, on_damaged)
    known = StepOutputs(
        canary_outcome=_live(connection, found, found.canary, spec),
        stable_outcome=_live(connection, found, found.stable, spec),
    )
    if drop_share(windows) > MAX_LOST:
        return known
    bins = baseline_bins = pairs = flips = None
    if spec.analysis.psi is not None:
        answered = outputs_of(windows, clients_of(found, spec))
        if answered is not None and answered.bins is not None and answered.unbinned <= MAX_LOST * answered.answers:
            bins, baseline_bins = answered.bins, baseline(found.model, found.canary)
    if bins is not None and baseline_bins is not None and bins.shape[1] != baseline_bins.shape[1]:
        bins = None
    if spec.analysis.sign_flips is not None:
        compared = outputs_of(windows, Side(found.canary, COMPARED_ROLE))
        if compared is not None:
            pairs, flips = compared.pairs, compared.flips
    return replace(known, canary_bins=bins, baseline_bins=baseline_bins, pairs=pairs, flips=flips)


def _live(connection: Connection, found: RolloutRow, version: int, spec: RolloutSpec) -> LiveFigure | None:
    """The latest live figure that the guard is about; None where there is none, or none with an error.

    One that was recorded before the rollout is about another market than the other version's.
    """
    if spec.analysis.outcome is None:
        return None
    row = last_steps(read_metrics(connection, found.model, version)).get(LIVE, {}).get(spec.analysis.outcome.figure)
    if row is None or row.value is None or row.standard_error is None or row.n < 2 or row.at < found.started_at:
        return None
    return LiveFigure(row.value, row.standard_error, row.n)
