"""What a rollout is to do, as a small file or a Python object; refused where it could never reach a decision."""

import json
import math
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mlops.package.manifest import Frozen, explain
from mlops.rollout.betting import windows_to_reach
from mlops.rollout.outputs import MIN_BUCKETS, least_share
from mlops.routing import WHOLE_BP
from mlops.statistics.directions import HIGHER_IS_BETTER
from mlops.tap.layout import BUCKETS
from tickserve.errors import ConfigurationError

#: Of a step's windows that are not evidence in its time: the one in which the share changed, and the one under way.
_LOST_WINDOWS = 2
#: Of a horizon's name, as a manifest has it.
_MOST_NAME = 256
Positive = Annotated[float, Field(gt=0)]
#: Of keys, requests, seconds and bins: what is beyond is a slip of the pen.
_MOST, _MOST_S, _MOST_BINS = 10**12, 366 * 86_400.0, 256
Fraction = Annotated[float, Field(gt=0, lt=1)]
#: Smaller ones take more windows to show than there are.
Tolerance = Annotated[float, Field(ge=1e-6, lt=1)]


class Step(Frozen):
    """One share of the keys, held until there is evidence.

    Parameters
    ----------
    share : float
        Percent of the routing keys, in steps of 0.01.
    min_time_s, max_time_s : float
        How long it is watched at least; after how long without a verdict it pauses and tells.
    min_requests : int
        Answered by the canary in this step, at least.
    """

    share: Annotated[float, Field(ge=0.01, le=100)]
    min_time_s: Annotated[float, Field(ge=0)] = 600.0
    max_time_s: Annotated[float, Field(gt=0, le=_MOST_S)] = 86_400.0
    min_requests: Annotated[int, Field(ge=1, le=_MOST)] = 1_000

    @property
    def share_bp(self) -> int:
        """The share in 1/10,000."""
        return round(self.share * 100)

    @model_validator(mode="after")
    def _consistent(self) -> "Step":
        if abs(self.share * 100 - self.share_bp) > 1e-6:
            raise ValueError(f"share {self.share:g}% is not in steps of 0.01%")
        if self.max_time_s <= self.min_time_s:
            raise ValueError(f"max_time_s {self.max_time_s:g} is not above min_time_s {self.min_time_s:g}")
        return self


class CellRule(Frozen):
    """Bad cells: fails where the canary's keys go bad more than `ratio` times as often as stable's.

    Passes where they are shown to be bad less than `margin` times as often, or the canary's own cells less than
    `tolerance` of the time.
    """

    ratio: Annotated[float, Field(ge=1)] = 1.0
    margin: Annotated[float, Field(gt=1)] = 2.0
    tolerance: Tolerance = 0.02

    @model_validator(mode="after")
    def _consistent(self) -> "CellRule":
        if self.margin <= self.ratio:
            raise ValueError(
                f"margin {self.margin:g} is not above ratio {self.ratio:g}: a canary between would be both"
            )
        return self


class LatencyRule(Frozen):
    """Answers over the frozen edge: stable's `quantile` at the start, `margin_bins` bins of the histogram further on.

    Fails where the canary's share of them is shown to lie more than `worse` above stable's; passes where it is shown to
    lie less than `tolerance` above.
    """

    quantile: Fraction = 0.99
    margin_bins: Annotated[int, Field(ge=2, le=_MOST_BINS)] = 2
    worse: Annotated[float, Field(ge=0, lt=1)] = 0.01
    tolerance: Tolerance = 0.05
    min_answers: Annotated[int, Field(ge=200, le=_MOST)] = 200

    @model_validator(mode="after")
    def _consistent(self) -> "LatencyRule":
        if self.tolerance <= self.worse:
            raise ValueError(f"tolerance {self.tolerance:g} is not above worse {self.worse:g}")
        return self


class OutputRule(Frozen):
    """Outputs at step ends: fails where the lower bound is above the tolerance, passes where the upper one is not."""

    tolerance: Positive


class OutcomeRule(Frozen):
    """A guard rail at step ends: fails where the canary's `figure` is shown to lie more than `worse` below stable's.

    `figure` is a metric of the data set `live`, such as `rank_ic`, or `rank_ic:5d` at another horizon than the first.
    It never passes a rollout, and holds none up.
    """

    figure: str = "rank_ic"
    worse: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _known(self) -> "OutcomeRule":
        metric, colon, horizon = self.figure.partition(":")
        if metric not in HIGHER_IS_BETTER:
            raise ValueError(f"figure {metric[:80]!r} is none of {', '.join(sorted(HIGHER_IS_BETTER))}")
        if colon and not (horizon.isprintable() and 1 <= len(horizon) <= _MOST_NAME):
            raise ValueError(f"figure {self.figure[:80]!r} names no horizon after the colon")
        return self


class AnalysisSpec(Frozen):
    """What is judged; what is None is not. One `alpha` for the whole rollout: the chance of a false rollback."""

    alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    errors: CellRule | None = CellRule()
    violations: CellRule | None = CellRule()
    latency: LatencyRule | None = LatencyRule()
    psi: OutputRule | None = None
    sign_flips: OutputRule | None = None
    outcome: OutcomeRule | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what is judged and has to pass."""
        names = ("errors", "violations", "latency", "psi", "sign_flips")
        return tuple(name for name in names if getattr(self, name) is not None)

    @property
    def metric_alpha(self) -> float:
        """Of each metric, by Bonferroni over those that can fail."""
        return self.alpha / (len(self.metrics) + (self.outcome is not None))

    @model_validator(mode="after")
    def _judges(self) -> "AnalysisSpec":
        if not self.metrics:
            raise ValueError("nothing is judged: name at least one metric beside the outcome, which passes nothing")
        return self


class RolloutSpec(Frozen):
    """A rollout.

    `canary` goes through the steps and then gives the version everything. `blue_green` gives it everything at once,
    watches for the one step, and goes back where it fails; `previous` runs as a shadow on a sample meanwhile.

    Parameters
    ----------
    keys : int
        Routing keys that ask, about: what a step can tell depends on it.
    window_s : float
        Length of the windows of counts. Short enough that most key buckets are clean in most of them.
    shadow : float
        Percent of the canary's requests that stable answers too, as a shadow. Of blue_green the step's share says that.
    max_bad_answers : int
        Bad answers of the canary beyond those that stable's rate explains, after which it is taken back whatever the
        verdicts are.
    """

    strategy: Literal["canary", "blue_green"] = "canary"
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=20)] = (
        Step(share=10.0),
        Step(share=50.0),
    )
    analysis: AnalysisSpec = AnalysisSpec()
    keys: Annotated[int, Field(ge=1, le=_MOST)]
    window_s: Annotated[float, Field(ge=0.5, le=3600)] = 10.0
    shadow: Annotated[float, Field(ge=0, le=100)] = 100.0
    max_bad_answers: Annotated[int, Field(ge=1, le=_MOST)] = 1_000

    @property
    def shadow_bp(self) -> int:
        """The sampled part of the compared requests, in 1/10,000."""
        return self.steps[0].share_bp if self.strategy == "blue_green" else round(self.shadow * 100)

    @model_validator(mode="after")
    def _decides(self) -> "RolloutSpec":
        shares = [step.share_bp for step in self.steps]
        if self.strategy == "blue_green" and len(shares) != 1:
            raise ValueError(
                "blue_green has one step, which is its watch; its share is the sample of requests compared"
            )
        if abs(self.shadow * 100 - round(self.shadow * 100)) > 1e-6:
            raise ValueError(f"shadow {self.shadow:g}% is not in steps of 0.01%")
        if self.analysis.sign_flips is not None and not self.shadow_bp:
            raise ValueError("sign_flips are counted on stable's shadow of the canary, and shadow is 0")
        if any(after <= before for before, after in pairwise(shares)):
            raise ValueError(f"the shares {[bp / 100 for bp in shares]} do not rise from step to step")
        for number, step in enumerate(self.steps, 1):
            self._require_buckets(number, step)
            self._require_windows(number, step)
            self._require_flips(number, step)
        return self

    def _require_buckets(self, number: int, step: Step) -> None:
        if self.strategy == "blue_green":
            if live_buckets(self.keys) < MIN_BUCKETS:
                raise ValueError(
                    f"the watch cannot reach a decision: {self.keys} keys are in about "
                    f"{live_buckets(self.keys):.1f} of {BUCKETS} key buckets, and {MIN_BUCKETS} are needed: "
                    f"at least {_KEYS_NEEDED} keys"
                )
            return
        if step.share_bp == WHOLE_BP:
            raise ValueError(
                f"step {number} has 100%, which leaves nothing to compare with: a canary gets that after its last step"
            )
        for side, share in (("the canary", step.share_bp / WHOLE_BP), ("stable", 1 - step.share_bp / WHOLE_BP)):
            keys = self.keys * share
            buckets = live_buckets(keys)
            if buckets < MIN_BUCKETS:
                raise ValueError(
                    f"step {number} cannot reach a decision: {share:.2%} of {self.keys} keys are {keys:.4g} keys for "
                    f"{side}, in about {buckets:.1f} of {BUCKETS} key buckets, and {MIN_BUCKETS} are needed; "
                    f"{_enough(self.keys)}"
                )

    def _require_windows(self, number: int, step: Step) -> None:
        have = math.floor(step.max_time_s / self.window_s)
        least = math.ceil(step.min_time_s / self.window_s)
        if least + _LOST_WINDOWS > have:
            raise ValueError(
                f"step {number} cannot reach a decision: min_time_s {step.min_time_s:g} is {least} windows of "
                f"{self.window_s:g} s, max_time_s {step.max_time_s:g} holds {have}, and {_LOST_WINDOWS} go by until "
                "the first one is whole and the last one is counted"
            )
        for name in self.analysis.metrics:
            rule = getattr(self.analysis, name)
            if isinstance(rule, OutputRule):
                continue
            lowest = -1.0
            need = windows_to_reach(self.analysis.alpha, -rule.tolerance, lowest, 0.0)
            if need > have:
                raise ValueError(
                    f"step {number} cannot reach a decision: a flawless canary needs {need} windows to show that "
                    f"{name} stay below a tolerance of {rule.tolerance:g} at alpha {self.analysis.alpha:g}, and "
                    f"max_time_s {step.max_time_s:g} holds {have} windows of {self.window_s:g} s; allow more time, "
                    "shorter windows or a larger tolerance"
                )

    def _require_flips(self, number: int, step: Step) -> None:
        rule = self.analysis.sign_flips
        share = 1.0 if self.strategy == "blue_green" else step.share_bp / WHOLE_BP
        buckets = live_buckets(self.keys * share)
        if rule is not None and (least := least_share(self.analysis.alpha, buckets)) > rule.tolerance:
            raise ValueError(
                f"step {number} cannot reach a decision: a canary without any sign flip in about {buckets:.1f} key "
                f"buckets is shown to flip less than {least:.3g} of all at alpha {self.analysis.alpha:g}, and the "
                f"tolerance of sign_flips is {rule.tolerance:g}; give it a larger share or a larger tolerance"
            )


def _filling(buckets: int) -> float:
    """How many keys fill so many of the 256 key buckets, on average."""
    return math.log1p(-buckets / BUCKETS) / math.log1p(-1 / BUCKETS)


_KEYS_NEEDED = math.ceil(_filling(MIN_BUCKETS))


def live_buckets(keys: float) -> float:
    """How many of the 256 key buckets hold at least one of so many keys, on average."""
    return float(BUCKETS * -math.expm1(keys * math.log1p(-1 / BUCKETS)))


def read_spec(path: Path) -> RolloutSpec:
    """A spec of a file, TOML or JSON by its name. Raises ConfigurationError that names the entry at fault."""
    try:
        text = path.read_text()
        plain: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", field="spec") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigurationError(f"{path} is no {kind}: {error}", field="spec") from None
    return parse_spec(plain)


def parse_spec(plain: Any) -> RolloutSpec:
    """A spec of a plain object, as the registry keeps it. Raises ConfigurationError that names the entry at fault."""
    try:
        # By way of text: JSON and TOML have arrays where the value has tuples.
        return RolloutSpec.model_validate_json(json.dumps(plain))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            fault = explain(error, "rollout spec")
            raise ConfigurationError(fault.message, field=fault.field) from None
        raise ConfigurationError(f"rollout spec: {error}", field="spec") from None


def _enough(keys: int) -> str:
    share = math.ceil(_filling(MIN_BUCKETS) / keys * WHOLE_BP) / 100
    if keys < _KEYS_NEEDED:
        return f"{keys} keys are too few for any evidence; promote it, and watch it with alerts"
    if 2 * share >= 100:
        return f"{keys} keys are too few for a canary at any share; use blue_green"
    return f"a share from {share:g}% to {100 - share:g}% has them"
