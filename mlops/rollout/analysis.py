"""All evidence about one rollout: a pure function of its windows of counts, equal bit for bit when done again."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mlops.rollout.counts import Counts, Exposure, SideCounts, WindowCounts
from mlops.rollout.guard import LiveFigure, OutcomeGuard
from mlops.rollout.metrics import CellMetric, LatencyMetric, Levels, MetricVerdict, OutputMetric, Verdict
from mlops.rollout.outputs import MIN_BUCKETS, psi_bounds, sign_flips
from mlops.rollout.shadow import ShadowTrust
from mlops.rollout.spec import RolloutSpec


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the analysis knows at one moment; what the decision rests on, and what the audit log keeps.

    `share_bp` is the canary's share of the keys in the last window; `step_windows`, and the `answers` and `buckets` of
    the canary, are those since it has that share, `requests` and `stable_requests` what both were asked meanwhile;
    `bad_answers` those that reached clients from the canary
    since the start, `excess_bad_answers` those that stable's rate does not explain, since it last explained all; its
    shadow explains none where `is_shadow_trusted` is False.
    """

    windows: int = 0
    verdicts: tuple[MetricVerdict, ...] = ()
    share_bp: int = 0
    step_windows: int = 0
    answers: int = 0
    buckets: int = 0
    stable_buckets: int = 0
    bad_answers: int = 0
    excess_bad_answers: float = 0.0
    requests: int = 0
    stable_requests: int = 0
    is_shadow_trusted: bool = True

    @property
    def traffic_share(self) -> float | None:
        """The canary's share of the requests of this step; None without any. A share of keys is another thing."""
        total = self.requests + self.stable_requests
        return self.requests / total if total else None

    @property
    def overall(self) -> Verdict:
        """Fail where any metric fails, pass where every one but guards passes: nothing judged passes nothing."""
        if any(each.verdict is Verdict.FAIL for each in self.verdicts):
            return Verdict.FAIL
        judged = {each.verdict for each in self.verdicts if not each.is_guard}
        return Verdict.PASS if judged == {Verdict.PASS} else Verdict.INCONCLUSIVE

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        verdicts = [
            {"metric": each.metric, "verdict": str(each.verdict), "why": each.why, "figures": each.figures}
            for each in self.verdicts
        ]
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"verdicts": verdicts}


@dataclass(frozen=True, slots=True, eq=False)
class StepOutputs:
    """What is known of the outputs of a step, and of what came of them; None where that is too little.

    Parameters
    ----------
    canary_bins, baseline_bins : array of int, shape (256, bins) and (blocks, bins)
        Counts of the canary's outputs by key bucket, and of its own package's baseline by block.
    pairs, flips : array of int, shape (256,)
        Rows that stable's shadow answered too, and those of them whose signal had another sign, by key bucket.
    canary_outcome, stable_outcome : LiveFigure
        The rule's figure of outcomes of each version.
    """

    canary_bins: Counts | None = None
    baseline_bins: Counts | None = None
    pairs: Counts | None = None
    flips: Counts | None = None
    canary_outcome: LiveFigure | None = None
    stable_outcome: LiveFigure | None = None

    @property
    def least(self) -> int:
        """Rows of the figure that has the fewest, of those that are there."""
        return min((int(each.sum()) for each in (self.canary_bins, self.pairs) if each is not None), default=0)


class Analysis:
    """The judge of one rollout.

    Examples
    --------
    >>> from mlops.rollout.spec import RolloutSpec
    >>> Analysis(RolloutSpec(keys=500)).evidence().overall
    <Verdict.INCONCLUSIVE: 'inconclusive'>
    """

    def __init__(self, spec: RolloutSpec) -> None:
        rules = spec.analysis
        levels = Levels.of(rules.metric_alpha, rules.alpha)
        is_paired = spec.strategy == "blue_green"
        self._spec = spec
        windowed: list[CellMetric | LatencyMetric] = []
        if rules.errors is not None:
            windowed.append(CellMetric("errors", "failures", rules.errors, levels, is_paired=is_paired))
        if rules.violations is not None:
            windowed.append(CellMetric("violations", "violations", rules.violations, levels, is_paired=is_paired))
        if rules.latency is not None:
            windowed.append(LatencyMetric(rules.latency, levels))
        self._windowed = windowed
        self._psi = None if rules.psi is None else OutputMetric("psi", rules.psi)
        self._flips = None if rules.sign_flips is None else OutputMetric("sign_flips", rules.sign_flips)
        self._outcome = None if rules.outcome is None else OutcomeGuard(rules.outcome)
        by_step = (self._psi, self._flips, self._outcome)
        self._by_step: list[OutputMetric | OutcomeGuard] = [metric for metric in by_step if metric is not None]
        self._metrics: list[CellMetric | LatencyMetric | OutputMetric | OutcomeGuard] = [*windowed, *self._by_step]
        self._windows = self._step_windows = self._share_bp = 0
        self._step = SideCounts.empty(), SideCounts.empty()
        self._seen: tuple[set[int], set[int]] = set(), set()
        self._bad, self._excess = 0, 0.0
        self._trust = ShadowTrust(levels.fail)

    def update(self, window: WindowCounts, exposure: Exposure | None = None) -> None:
        """Takes the next window, summed over servers; one in which the shares changed is to be left out.

        Parameters
        ----------
        exposure : Exposure, optional
            What clients got, where that is more than what is compared.
        """
        if window.share_bp != self._share_bp:
            self._begin_step(window.share_bp)
        self._windows += 1
        self._step_windows += 1
        for metric in self._windowed:
            metric.update(window)
        self._step = self._step[0] + window.canary, self._step[1] + window.stable
        ours, theirs = window.canary, window.stable
        for seen, side in zip(self._seen, (ours, theirs), strict=True):
            seen.update(np.flatnonzero(side.requests).tolist())
        if exposure is None:
            exposure = Exposure(ours, theirs, SideCounts.empty())
        if self._spec.strategy == "canary":
            self._trust.update(exposure.shadow, exposure.stable, window.share_bp)
        self.expose(exposure)

    def expose(self, exposure: Exposure) -> None:
        """Counts the bad answers that clients got in a window, which is no evidence by that.

        Stable's rate explains as many as it would have given: the higher one of its own requests and of the canary's.
        """
        shadow_rate = exposure.shadow.bad_rate if self._trust.is_kept else 0.0
        expected = max(exposure.stable.bad_rate, shadow_rate) * int(exposure.canary.requests.sum())
        self._bad += exposure.canary.bad
        # What it was better by is no credit: later bad answers would be free up to it.
        self._excess = max(0.0, self._excess + exposure.canary.bad - expected)

    def _begin_step(self, share_bp: int) -> None:
        """The shares changed: what is counted by step begins anew; evidence goes on."""
        self._share_bp, self._step_windows = share_bp, 0
        self._step = SideCounts.empty(), SideCounts.empty()
        for metric in self._by_step:
            metric.begin_step()

    @property
    def output_alpha(self) -> float:
        """Of one output metric at one step end."""
        return self._spec.analysis.metric_alpha / len(self._spec.steps)

    def end_step(self, outputs: StepOutputs) -> None:
        """Judges the outputs of a step when it could end: each metric once a step, as its part of alpha is spent then.

        Too little to say is no look, nor are counts that are not given; they may be given later.
        """
        # As of the other metrics: failing is split over them, and here over the steps; passing is not.
        levels = self.output_alpha, self._spec.analysis.alpha
        ours, theirs = outputs.canary_bins, outputs.baseline_bins
        if self._psi is not None and not self._psi.is_judged and ours is not None and theirs is not None:
            self._psi.update(psi_bounds(ours, theirs, *levels))
        pairs, flips = outputs.pairs, outputs.flips
        if self._flips is not None and not self._flips.is_judged and pairs is not None and flips is not None:
            self._flips.update(sign_flips(pairs, flips, *levels))
        canary, stable = outputs.canary_outcome, outputs.stable_outcome
        if self._outcome is not None and not self._outcome.is_judged and canary is not None and stable is not None:
            self._outcome.update(canary, stable, self.output_alpha)

    @property
    def unjudged_outputs(self) -> frozenset[str]:
        """The output metrics that this step has not been judged by."""
        return frozenset(metric.name for metric in self._by_step if not metric.is_judged)

    def evidence(self) -> Evidence:
        """What is known now."""
        ours, theirs = self._step
        buckets, stable_buckets = int((ours.requests > 0).sum()), int((theirs.requests > 0).sum())
        unpaired = [metric.verdict() for metric in self._windowed]
        # To pass, this step has to have them; to fail, the rollout.
        may_pass = min(buckets, stable_buckets) >= MIN_BUCKETS
        may_fail = min(len(seen) for seen in self._seen) >= MIN_BUCKETS
        why = f"{buckets} key buckets of the canary and {stable_buckets} of stable, {MIN_BUCKETS} are needed"
        unpaired = [
            each
            if (each.verdict is Verdict.FAIL and may_fail) or (each.verdict is not Verdict.FAIL and may_pass)
            else MetricVerdict(each.metric, Verdict.INCONCLUSIVE, why, each.figures)
            for each in unpaired
        ]
        outputs = [metric.verdict() for metric in self._by_step]
        return Evidence(
            windows=self._windows,
            verdicts=(*unpaired, *outputs),
            share_bp=self._share_bp,
            step_windows=self._step_windows,
            answers=int(ours.answers.sum()),
            buckets=buckets,
            stable_buckets=stable_buckets,
            bad_answers=self._bad,
            excess_bad_answers=self._excess,
            requests=int(ours.requests.sum()),
            stable_requests=int(theirs.requests.sum()),
            is_shadow_trusted=self._trust.is_kept,
        )

    def state(self) -> dict[str, Any]:
        """As JSON has it: whoever restores it goes on to the same bits."""
        return {
            "windows": self._windows,
            "step_windows": self._step_windows,
            "share_bp": self._share_bp,
            "step": [side.as_dict() for side in self._step],
            "seen": [sorted(seen) for seen in self._seen],
            "bad": self._bad,
            "excess": self._excess,
            "trust": self._trust.state(),
            "metrics": {metric.name: metric.state() for metric in self._metrics},
        }

    @classmethod
    def restored(cls, spec: RolloutSpec, state: Mapping[str, Any]) -> "Analysis":
        """The analysis that `state()` was taken of, under the same spec."""
        found = cls(spec)
        found._windows, found._bad, found._excess = state["windows"], state["bad"], state["excess"]
        found._step_windows, found._share_bp = state["step_windows"], state["share_bp"]
        ours, theirs = (SideCounts.from_dict(side) for side in state["step"])
        found._step = ours, theirs
        found._seen = set(state["seen"][0]), set(state["seen"][1])
        found._trust.restore(state["trust"])
        for metric in found._metrics:
            metric.restore(state["metrics"][metric.name])
        return found


def evidence_of(spec: RolloutSpec, state: Mapping[str, Any] | None) -> Evidence:
    """What the analysis knew whose `state()` this is; nothing where there is none yet."""
    return Evidence() if state is None else Analysis.restored(spec, state).evidence()
