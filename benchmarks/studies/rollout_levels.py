"""How often rollouts are taken back for nothing, how soon for good reason: writes docs/studies/rollout-levels.md."""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.studies.rollout_worlds import EQUAL, Canary, World, play, play_shadowed, shares_bp
from mlops.rollout import Analysis, RolloutSpec, SideCounts, Verdict, WindowCounts
from mlops.rollout.cells import RATIOS
from mlops.rollout.counts import Exposure
from mlops.rollout.wealth import log_mean

REPORT = Path(__file__).resolve().parents[2] / "docs" / "studies" / "rollout-levels.md"
ROLLOUTS, DETECTIONS = 10_000, 100
SPEC = RolloutSpec(keys=500)
WORLD = World()
#: Part of the keys that the canary begins with.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
CANARIES = {
    "errors x 3": Canary(ratio=3.0),
    "fails on 1% of requests": Canary(errors=0.01),
    "5 points more violations": Canary(violations=0.05),
    "three times slower": Canary(slow=0.9),
    "2% over the edge more": Canary(slow=0.02),
    "fails on 1% from half-time on": Canary(errors=0.01, from_window=60),
}
#: Rules that are looked at beside ours, on the same counts.
OTHERS = ("every bad cell", "z-test at every look", "fixed threshold")


@dataclass(frozen=True)
class Outcome:
    """One rollout: which metric failed in which window (0: none), with how many bad answers, and who else fails it."""

    share: float
    failed: str
    window: int
    bad_answers: int
    passed: bool
    others: tuple[bool, ...]


def simulate(share: float, canary: Canary, seed: int) -> Outcome:
    """Plays one rollout to its end, or until it fails."""
    shares = shares_bp(share, WORLD.windows)
    windows = list(play(np.random.default_rng(seed), WORLD, canary, shares))
    analysis = Analysis(SPEC)
    failed, number, passed = "", 0, False
    for number, window in enumerate(windows, 1):
        analysis.update(window)
        # A fail stays one, so an equal canary need only be asked at the end.
        if canary is EQUAL and number < len(windows):
            continue
        evidence = analysis.evidence()
        passed = evidence.overall is Verdict.PASS
        failed = ", ".join(each.metric for each in evidence.verdicts if each.verdict is Verdict.FAIL)
        if failed:
            break
    others = (_every_cell(windows), _z_test(windows), _threshold(windows))
    return Outcome(share, failed, number if failed else 0, analysis.evidence().bad_answers, passed, others)


@dataclass(frozen=True)
class Bounded:
    """One rollout beside the bound on bad answers: the most that stable's rate left unexplained at any time."""

    bad_answers: int
    unexplained: float
    is_shadow_trusted: bool


def bounded(
    share: float, canary: Canary, seed: int, shadow: Callable[[SideCounts], SideCounts] = lambda counts: counts
) -> Bounded:
    """Plays one rollout to its end, with a shadow that makes this of what stable would have done."""
    analysis, most = Analysis(SPEC), 0.0
    shares = shares_bp(share, WORLD.windows)
    for window, as_stable in play_shadowed(np.random.default_rng(seed), WORLD, canary, shares):
        analysis.update(window, Exposure(window.canary, window.stable, shadow(as_stable)))
        most = max(most, analysis.evidence().excess_bad_answers)
    evidence = analysis.evidence()
    return Bounded(evidence.bad_answers, most, evidence.is_shadow_trusted)


def failing(shadow: SideCounts) -> SideCounts:
    """A shadow that answers nothing."""
    return replace(shadow, failures=shadow.requests, answers=np.zeros_like(shadow.answers))


def _every_cell(windows: Sequence[WindowCounts]) -> bool:
    """The e-process that takes each bad cell of each window by the sides' cells that had requests."""
    level = -math.log(SPEC.analysis.metric_alpha)
    for kind in ("failures", "violations"):
        logs = np.zeros(len(RATIOS))
        for window in windows:
            ours, theirs = window.canary, window.stable
            live = int((ours.requests > 0).sum()), int((theirs.requests > 0).sum())
            if not min(live):
                continue
            odds = live[0] / live[1]
            chance, null = odds * RATIOS / (1 + odds * RATIOS), odds / (1 + odds)
            bad = int((getattr(ours, kind) > 0).sum()), int((getattr(theirs, kind) > 0).sum())
            logs = logs + bad[0] * np.log(chance / null) + bad[1] * np.log((1 - chance) / (1 - null))
            if log_mean(logs) >= level:
                return True
    return False


def _sums(windows: Sequence[WindowCounts], kind: str) -> np.ndarray:
    """Of each window: requests and bad ones of the canary, then of stable; shape (windows, 4)."""
    return np.array(
        [[side_sum for side in (w.canary, w.stable) for side_sum in (side.requests.sum(), getattr(side, kind).sum())]
         for w in windows]
    )  # fmt: skip


def _z_test(windows: Sequence[WindowCounts]) -> bool:
    """Two proportions of all requests so far, one-sided at alpha over the metrics, at every window."""
    for kind in ("failures", "violations"):
        n, bad, m, worse = _sums(windows, kind).cumsum(axis=0).T
        with np.errstate(divide="ignore", invalid="ignore"):
            pooled = (bad + worse) / (n + m)
            z = (bad / n - worse / m) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        # Of the normal law at 1% over three metrics.
        if (z[n >= 100] > 2.713).any():
            return True
    return False


def _threshold(windows: Sequence[WindowCounts]) -> bool:
    """Twice in a row, over ten windows: more than twice stable's rate, and 0.1 points more."""
    for kind in ("failures", "violations"):
        before = False
        for at in range(0, len(windows), 10):
            n, bad, m, worse = _sums(windows[at : at + 10], kind).sum(axis=0)
            is_over = bool(n >= 100 and m and bad / n > 2 * worse / m and bad / n > worse / m + 1e-3)
            if is_over and before:
                return True
            before = is_over
    return False


def equal(rollouts: Iterable[int]) -> list[Outcome]:
    """Rollouts of equal versions by their numbers, shares in turn."""
    return [simulate(SHARES[number % len(SHARES)], EQUAL, number) for number in rollouts]


def worse(rollouts: Iterable[int]) -> dict[str, list[Outcome]]:
    """Rollouts of every worse canary at every share that a spec may begin with."""
    return {
        f"{name}|{share}": [simulate(share, canary, 1_000_000 + number) for number in rollouts]
        for name, canary in CANARIES.items()
        for share in SHARES[2:]
    }


def report(alike: Sequence[Outcome], found: dict[str, list[Outcome]], seconds: float) -> str:
    """The text of the report."""
    lines = [_level_line(f"{share:.0%}", [each for each in alike if each.share == share]) for share in SHARES]
    lines.append(_level_line("all", alike))
    curves = [_detection_line(*name.split("|"), outcomes) for name, outcomes in found.items()]
    worse_ones = f"{len(curves)} x {len(next(iter(found.values())))} of worse ones"
    return f"""# How often a rollout is taken back

Of `benchmarks/studies/rollout_levels.py` in {seconds / 60:.0f} minutes: {len(alike):,} rollouts of equal versions,
{worse_ones}, {WORLD.windows} windows each. `make studies` plays {ROLLOUTS:,} of equal
versions and {DETECTIONS} of each worse canary.

{WORLD.keys} sticky keys; the traffic of a key falls as one over its rank, its proneness to errors, to violations and
to slow answers is log-normal with a spread of {WORLD.spread:g}; bursts of single keys and of all keys at once;
{WORLD.broken_keys} keys break a rule with every request, whatever answers them. A rollout begins at its share and has
three times that, at most 50%, after half of its windows. Looked at in every window; one alpha of
{SPEC.analysis.alpha:.0%} over {len(SPEC.analysis.metrics)} metrics and all steps.

## Equal versions: false rollbacks

Left out is the bound on bad answers, which is no test: [ADR 0022](../adr/0022-traffic.md) has what it takes back.

Ours is errors, violations and latency together; the others are errors and violations alone, on the same counts. A
rollout that would begin below 4.2% is refused with 500 keys; it is here to show the level.

| first share | rollouts | ours | every bad cell counted | z-test at every look | fixed threshold |
|---|---|---|---|---|---|
{chr(10).join(lines)}

"Every bad cell counted" is the same bet with each bad (key bucket, window) cell of each window, by the cells of a side
that had requests. Keys that are broken or prone stay on their side of the split for the whole rollout, so their cells
are no new evidence each window; ours counts a cell once after each start. The fixed threshold is more than twice
stable's rate and 0.1 points more over ten windows, twice in a row.

## Worse canaries: detection

Share of rollouts that were taken back, in which window at the median, and how many bad answers had reached clients from
the canary by then (those that stable would have given too are among them).

| canary | first share | taken back | by | median window | median bad answers | fixed threshold |
|---|---|---|---|---|---|---|
{chr(10).join(curves)}
"""


def _level_line(name: str, outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return f"| {name} | 0 | | | | |"
    others = [sum(each.others[place] for each in outcomes) / len(outcomes) for place in range(len(OTHERS))]
    ours = sum(bool(each.failed) for each in outcomes)
    shown = " | ".join(f"{share:.1%}" for share in others)
    return f"| {name} | {len(outcomes):,} | {ours / len(outcomes):.2%} ({ours}) | {shown} |"


def _detection_line(name: str, share: str, outcomes: Sequence[Outcome]) -> str:
    caught = [each for each in outcomes if each.failed]
    metrics = {metric for each in caught for metric in each.failed.split(", ")}
    window = f"{median(each.window for each in caught):.0f}" if caught else ""
    bad = f"{median(each.bad_answers for each in caught):.0f}" if caught else ""
    threshold = sum(each.others[-1] for each in outcomes) / len(outcomes)
    return (
        f"| {name} | {float(share):.0%} | {len(caught) / len(outcomes):.0%} | {', '.join(sorted(metrics))} | {window} "
        f"| {bad} | {threshold:.0%} |"
    )


def main() -> None:
    """Writes the report."""
    began = time.monotonic()
    text = report(equal(range(ROLLOUTS)), worse(range(DETECTIONS)), time.monotonic() - began)
    REPORT.write_text(text)
    print(text)


def dump(outcomes: Sequence[Outcome]) -> str:
    """Outcomes as JSON, for runs in parts."""
    return json.dumps([asdict(each) for each in outcomes])


def load(text: str) -> list[Outcome]:
    """What `dump` gave."""
    return [Outcome(**(each | {"others": tuple(each["others"])})) for each in json.loads(text)]


if __name__ == "__main__":
    main()
