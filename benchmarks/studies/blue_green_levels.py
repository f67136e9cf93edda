"""How often a blue-green watch goes back for nothing, how soon for good reason: docs/studies/blue-green-levels.md."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.rollout_worlds import EQUAL, Canary, runs
from mlops.rollout import Analysis, RolloutSpec, Step, Verdict, WindowCounts
from mlops.rollout.cells import RATIOS
from mlops.rollout.counts import SideCounts
from mlops.rollout.wealth import log_mean
from mlops.tap.layout import BUCKETS

REPORT = Path(__file__).resolve().parents[2] / "docs" / "studies" / "blue-green-levels.md"
WATCHES, DETECTIONS = 3_000, 100
SPEC = RolloutSpec(strategy="blue_green", steps=(Step(share=20.0),), keys=500)
#: Part of the keys on which one of the versions fails and the other one does not.
PRONE = (0.004, 0.02, 0.1)
CANARIES = {
    "fails on 1% of requests": Canary(errors=0.01),
    "5 points more violations": Canary(violations=0.05),
    "three times slower": Canary(slow=0.9),
    "fails on 1% from half-time on": Canary(errors=0.01, from_window=60),
}


@dataclass(frozen=True)
class Pairs:
    """Requests that both versions ran.

    `requests` is their mean in one window over all keys; a key's part falls as one over its rank. What is bad on both
    sides is the input's doing (`shared`). On a `prone` key one version alone fails, with three of ten requests and for
    as long as the watch lasts; and each has mishaps of its own. Bursts hit both sides, for slow answers one of them.
    """

    keys: int = 500
    windows: int = 120
    requests: float = 400.0
    shared: float = 5e-3
    spread: float = 1.0
    mishaps: float = 2e-4
    slow_rate: float = 0.01
    bursts: float = 0.03
    prone: float = 0.02


@dataclass(frozen=True)
class Outcome:
    """One watch: which metrics failed in which window (0: none), after how many bad answers of the sample."""

    prone: float
    failed: str
    window: int
    bad_answers: int
    every_cell: bool


def play(draw: np.random.Generator, world: Pairs, canary: Canary) -> Iterator[WindowCounts]:
    """The windows of one watch."""
    bucket = draw.integers(BUCKETS, size=world.keys)
    traffic = 1 / np.arange(1, world.keys + 1)
    asked = draw.poisson(world.requests * (traffic / traffic.sum())[:, None], (world.keys, world.windows))
    is_on = (np.arange(world.windows) >= canary.from_window)[None, :]
    errors = _bad(draw, world, asked, canary.errors * is_on)
    violations = _bad(draw, world, asked, canary.violations * is_on)
    slow = tuple(
        draw.binomial(
            asked,
            np.minimum(1.0, world.slow_rate + 0.2 * runs(draw, (1, world.windows), world.bursts) + added),
        )
        for added in (canary.slow * is_on, np.zeros((1, 1)))
    )
    sides = []
    for side in (0, 1):
        answers = asked - errors[side]
        kinds = (asked, answers, errors[side], np.minimum(violations[side], answers), slow[side])
        sides.append([np.zeros((BUCKETS, world.windows), np.int64) for _ in kinds])
        for total, each in zip(sides[side], kinds, strict=True):
            np.add.at(total, bucket, each)
    for window in range(world.windows):
        ours, theirs = (SideCounts(*(total[:, window] for total in side)) for side in sides)
        yield WindowCounts(SPEC.steps[0].share_bp, ours, theirs)


def _bad(
    draw: np.random.Generator, world: Pairs, asked: NDArray[np.int64], added: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bad requests of the canary and of stable, shape (keys, windows) each."""
    proneness = np.exp(world.spread * draw.normal(size=(world.keys, 1)) - world.spread**2 / 2)
    burst = 0.2 * runs(draw, (1, world.windows), world.bursts)
    shared = draw.binomial(asked, np.minimum(1.0, np.maximum(world.shared * proneness, burst)))
    whose = draw.random((world.keys, 1)) / world.prone
    alone = (whose < 0.5, (whose >= 0.5) & (whose < 1))
    chances = (0.3 * alone[0] + world.mishaps + added, 0.3 * alone[1] + world.mishaps)
    ours, theirs = (shared + draw.binomial(asked - shared, np.minimum(1.0, chance)) for chance in chances)
    return ours, theirs


def watch(prone: float, canary: Canary, seed: int) -> Outcome:
    """Plays one watch to its end, or until it fails."""
    windows = list(play(np.random.default_rng(seed), Pairs(prone=prone), canary))
    analysis = Analysis(SPEC)
    failed, number = "", 0
    for number, window in enumerate(windows, 1):
        analysis.update(window)
        # A fail stays one, so an equal canary need only be asked at the end.
        if canary is EQUAL and number < len(windows):
            continue
        verdicts = analysis.evidence().verdicts
        failed = ", ".join(each.metric for each in verdicts if each.verdict is Verdict.FAIL)
        if failed:
            break
    return Outcome(prone, failed, number if failed else 0, analysis.evidence().bad_answers, _every_cell(windows))


def _every_cell(windows: Sequence[WindowCounts]) -> bool:
    """The same bet on every cell of every window that is bad on one side alone."""
    level = -math.log(SPEC.analysis.metric_alpha)
    for kind in ("failures", "violations"):
        logs = np.zeros(len(RATIOS))
        for window in windows:
            ours, theirs = getattr(window.canary, kind) > 0, getattr(window.stable, kind) > 0
            alone = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
            logs = logs + alone[0] * np.log(2 * RATIOS / (1 + RATIOS)) + alone[1] * np.log(2 / (1 + RATIOS))
            if log_mean(logs) >= level:
                return True
    return False


def equal(watches: Iterable[int]) -> list[Outcome]:
    """Watches of equal versions by their numbers, parts of prone keys in turn."""
    return [watch(PRONE[number % len(PRONE)], EQUAL, number) for number in watches]


def worse(watches: Sequence[int]) -> dict[str, list[Outcome]]:
    """Watches of every worse version."""
    return {name: [watch(PRONE[1], canary, 1_000_000 + at) for at in watches] for name, canary in CANARIES.items()}


def report(alike: Sequence[Outcome], found: dict[str, list[Outcome]], seconds: float) -> str:
    """The text of the report."""
    world = Pairs()
    levels = [_level_line(f"{prone:.1%}", [each for each in alike if each.prone == prone]) for prone in PRONE]
    levels.append(_level_line("all", alike))
    return f"""# How often a blue-green watch goes back

Of `benchmarks/studies/blue_green_levels.py` in {seconds / 60:.0f} minutes: {len(alike):,} watches of equal versions,
{len(found)} x {len(next(iter(found.values())))} of worse ones, {world.windows} windows each.

{world.keys} sticky keys, {world.requests:g} requests a window that both versions run; the traffic of a key falls as
one over its rank. What is bad on both sides is the input's doing and comes in bursts too. Of the prone keys each fails
under one version alone, with three of ten requests and to the end: equal versions that were trained twice differ in
which. Each version is slow in bursts of its own. Looked at in every window; one alpha of {SPEC.analysis.alpha:.0%}
over {len(SPEC.analysis.metrics)} metrics.

## Equal versions: gone back for nothing

| keys that fail under one version alone | watches | ours | every window's cells counted |
|---|---|---|---|
{chr(10).join(levels)}

"Every window's cells counted" is the same bet on errors and violations with each (key bucket, window) cell that is bad
on one side alone. A key that is prone under one version is so in every window, which is no new evidence.

## Worse versions: detection

With {PRONE[1]:.0%} of the keys prone. Bad answers are those of the sample, a fifth of what clients would have had.

| version | gone back | by | median window | median bad answers |
|---|---|---|---|---|
{chr(10).join(_detection_line(name, outcomes) for name, outcomes in found.items())}
"""


def _level_line(name: str, outcomes: Sequence[Outcome]) -> str:
    ours, others = sum(bool(each.failed) for each in outcomes), sum(each.every_cell for each in outcomes)
    total = max(len(outcomes), 1)
    return f"| {name} | {len(outcomes):,} | {ours / total:.2%} ({ours}) | {others / total:.1%} |"


def _detection_line(name: str, outcomes: Sequence[Outcome]) -> str:
    caught = [each for each in outcomes if each.failed]
    metrics = sorted({metric for each in caught for metric in each.failed.split(", ")})
    window = f"{median(each.window for each in caught):.0f}" if caught else ""
    bad = f"{median(each.bad_answers for each in caught):.0f}" if caught else ""
    return f"| {name} | {len(caught) / len(outcomes):.0%} | {', '.join(metrics)} | {window} | {bad} |"


def main() -> None:
    """Writes the report."""
    began = time.monotonic()
    alike, found = equal(range(WATCHES)), worse(range(DETECTIONS))
    text = report(alike, found, time.monotonic() - began)
    REPORT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
