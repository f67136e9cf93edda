"""Outputs by window: what a plain loop over the records gives, over restarts at any point, with pairs by request id."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlops import histogram
from mlops.package import Package, add_version, read_package
from mlops.package.manifest import ColumnMapping
from mlops.prediction_log import Batch
from mlops.rollout.sums import CountedOutputs
from mlops.sidecar.counts.outputs import HOLD_NS, OutputWindows
from mlops.sidecar.counts.pairs import Pairs, Signals
from mlops.sidecar.counts.reading import OutputReaders
from mlops.tap import Why
from tests.unit.package.builders import build_small
from tests.unit.sidecar.test_drift import batch_of

SECOND = 1_000_000_000
WINDOW_NS = 10 * SECOND
START_NS = 1_800_000_000 * SECOND
STABLE, CANARY, SHADOW, PREVIOUS, COMPARED = 1, 2, 3, 4, 6
Given = dict[tuple[str, int, int, int], CountedOutputs]


@pytest.fixture
def package(tmp_path: Path) -> Package:
    signal = ColumnMapping(output="prediction", column=0)
    _, folder = add_version(tmp_path / "models", build_small(tmp_path / "built", signal=signal))
    return read_package(folder)


@pytest.fixture
def make(package: Package) -> Callable[[], OutputWindows]:
    readers = OutputReaders(lambda model, version, digest: package if digest == package.digest else None)
    return lambda: OutputWindows("here", WINDOW_NS, readers, clock=lambda: START_NS + 10**15)


def some(package: Package, n: int, *, seed: int = 0, first: int = 0, version: str = "1", **columns: object) -> Batch:
    """Records of one version over some windows, of every kind that is counted and that is not."""
    rng = np.random.default_rng(seed)
    made = batch_of(package, rng.normal(size=(n, 3)).astype(np.float32), first, version=version)
    usual = {
        "time_ns": START_NS + np.sort(rng.integers(0, 35 * SECOND, n)),
        "role": rng.choice(np.array([STABLE, CANARY, SHADOW, PREVIOUS], np.uint8), n),
        "why": rng.choice(np.array([Why.SPLIT, Why.SPLIT, Why.SHADOW, Why.PIN, Why.SMOKE], np.uint8), n),
        "status": rng.choice(np.array([0, 0, 0, 13], np.uint8), n),
        "key_bucket": rng.integers(0, 256, n).astype(np.uint8),
        "stage_ns": rng.integers(0, 10**6, (n, 6)).astype(np.uint64),
        "missed": np.cumsum(rng.integers(0, 2, n)).astype(np.int64),
        "boot": rng.choice(np.array(["aa", "bb"], object), n),
        "request_id": np.array([f"{first + place}" for place in range(n)], object),
    }
    return replace(made, **(usual | columns))


def given(windows: OutputWindows, found: Given, before_ns: int = START_NS + 10**15) -> Given:
    for _, each in windows.changed(before_ns):
        found[each.boot, each.version, each.role, each.start_ns] = each
    return found


def plainly(package: Package, batch: Batch) -> dict[tuple[str, int, int, int], dict[str, object]]:
    """The same by a loop over records."""
    assert package.baseline is not None
    assert package.baseline.outputs is not None
    edges = package.baseline.outputs.columns[0].edge_array()  # type: ignore[union-attr]
    found: dict[tuple[str, int, int, int], dict[str, object]] = {}
    for place in range(len(batch)):
        if batch.status[place] or batch.role[place] > 3 or batch.why[place] not in (Why.SPLIT, Why.SHADOW):
            continue
        start = int(batch.time_ns[place]) // WINDOW_NS * WINDOW_NS
        key = batch.boot[place], 1, int(batch.role[place]), start
        into = found.setdefault(
            key,
            {
                "answers": 0,
                "bins": np.zeros((256, len(edges) + 2), np.int64),
                "total": [0] * histogram.BUCKETS,
                "run": [0] * histogram.BUCKETS,
                "positions": [],
                "missed": [],
            },
        )
        into["answers"] += 1  # type: ignore[operator]
        value = batch.outputs["prediction"][place, 0]
        cell = sum(value >= edge for edge in edges)
        into["bins"][batch.key_bucket[place], cell] += 1  # type: ignore[index]
        into["total"][histogram.bucket(int(batch.stage_ns[place].sum()))] += 1  # type: ignore[index]
        into["run"][histogram.bucket(int(batch.stage_ns[place, 3]))] += 1  # type: ignore[index]
        into["positions"].append(int(batch.position[place]))  # type: ignore[attr-defined]
        into["missed"].append(int(batch.missed[place]))  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_what_a_loop_over_the_records_gives_however_they_are_cut_and_restarted(
    package: Package, make: Callable[[], OutputWindows], seed: int
) -> None:
    batch = some(package, 600, seed=seed)
    rng = np.random.default_rng(seed)
    windows, found = make(), Given()
    cuts = sorted(rng.integers(0, 600, 6).tolist())
    for first, after in zip([0, *cuts], [*cuts, 600], strict=True):
        kept = windows.checkpoint()
        piece = batch.take(np.arange(600) < after).take(np.arange(after) >= first)
        if len(piece):
            windows.add(piece)
            given(windows, found)
            if rng.random() < 0.5:
                # Killed after it was written: from its checkpoint it gives the same again.
                windows = make()
                windows.restore(kept)
                windows.add(piece)
        given(windows, found)
    expected = plainly(package, batch)
    found = {key: each for key, each in found.items() if key[2] != COMPARED}
    assert found.keys() == expected.keys()
    for key, each in found.items():
        wanted = expected[key]
        assert (each.answers, each.unbinned) == (wanted["answers"], 0)
        assert each.bins is not None
        assert each.bins.tolist() == wanted["bins"].tolist()  # type: ignore[attr-defined]
        assert each.total_ns.tolist() == wanted["total"]
        assert each.run_ns.tolist() == wanted["run"]
        assert each.positions == (min(wanted["positions"]), max(wanted["positions"]))  # type: ignore[call-overload]
        assert each.missed == (min(wanted["missed"]), max(wanted["missed"]))  # type: ignore[call-overload]


def test_a_window_is_given_when_it_is_over_and_again_when_something_came_late(
    package: Package, make: Callable[[], OutputWindows]
) -> None:
    windows = make()
    windows.add(plain(package, [1, 2, 12]))
    assert [each.answers for _, each in windows.changed(START_NS + 9 * SECOND)] == []
    assert [each.answers for _, each in windows.changed(START_NS + 10 * SECOND)] == [2]
    assert windows.changed(START_NS + 10 * SECOND) == []
    windows.add(plain(package, [3], first=3))
    assert [each.answers for _, each in windows.changed(START_NS + 10 * SECOND)] == [3]
    windows.add(plain(package, [95], first=4))
    windows.add(plain(package, [4], first=5))
    assert windows.late == 1, "it would write over what is complete"
    assert [each.start_ns for _, each in windows.changed(START_NS + 200 * SECOND)] == [
        START_NS + 10 * SECOND,
        START_NS + 90 * SECOND,
    ]


def test_a_clock_that_was_ahead_for_a_while_does_not_make_everything_late(package: Package) -> None:
    now = [START_NS + 10 * SECOND]
    windows = OutputWindows("here", WINDOW_NS, lambda *_: None, clock=lambda: now[0])
    windows.add(plain(package, [86_400]))
    windows.add(plain(package, [11], first=1))
    assert windows.late == 0


def test_windows_that_nobody_adds_to_any_more_are_let_go(package: Package, make: Callable[[], OutputWindows]) -> None:
    windows = make()
    windows.add(plain(package, [1]))
    given(windows, Given())
    assert len(windows) == 1
    windows.let_go(START_NS + 20 * SECOND + HOLD_NS)
    assert len(windows) == 0


def test_answers_whose_package_cannot_be_had_are_counted_without_bins(package: Package) -> None:
    windows = OutputWindows("here", WINDOW_NS, lambda *_: None, clock=lambda: START_NS + 10**15)
    windows.add(plain(package, [1, 2]))
    [each] = given(windows, Given()).values()
    assert (each.answers, each.unbinned, each.bins) == (2, 2, None)
    assert each.total_ns.sum() == 2


@pytest.mark.parametrize("data", [b"", b"\0" * 40, b"\2\0\0\0{}"])
def test_what_is_no_checkpoint_is_refused(make: Callable[[], OutputWindows], data: bytes) -> None:
    with pytest.raises(ValueError, match="not a checkpoint of outputs"):
        make().restore(data)


def test_windows_of_another_length_begin_anew(package: Package, make: Callable[[], OutputWindows]) -> None:
    windows = make()
    windows.add(plain(package, [1, 2]))
    other = OutputWindows("here", 5 * SECOND, lambda *_: None, clock=lambda: START_NS + 7 * SECOND)
    other.restore(windows.checkpoint())
    other.add(plain(package, [1, 4, 6, 11]))
    assert [(each.start_ns - START_NS) // SECOND for each in given(other, Given()).values()] == [5, 10]
    assert other.late == 0


def test_what_nobody_keeps_is_not_counted(package: Package) -> None:
    now_ns = START_NS + 100 * SECOND
    windows = OutputWindows("here", WINDOW_NS, lambda *_: None, clock=lambda: now_ns, keep_ns=60 * SECOND)
    windows.add(plain(package, [1, 39, 41]))
    assert [each.answers for each in given(windows, Given()).values()] == [1]


def plain(package: Package, seconds: Sequence[float], *, first: int = 0, **columns: object) -> Batch:
    """Answers of stable, so many seconds after the beginning."""
    n = len(seconds)
    usual: dict[str, object] = {
        "time_ns": START_NS + (np.array(seconds) * SECOND).astype(np.int64),
        "role": np.full(n, STABLE, np.uint8),
        "why": np.full(n, Why.SPLIT, np.uint8),
        "status": np.zeros(n, np.uint8),
        "boot": np.full(n, "aa", object),
        "missed": np.zeros(n, np.int64),
    }
    return some(package, n, first=first, **(usual | columns))


def shadow(package: Package, live: Batch, *, flipped: Sequence[int], first: int) -> Batch:
    """What a shadow answered to the same requests, in another order; some with the other sign."""
    outputs = live.outputs["prediction"].copy()
    outputs[list(flipped)] *= -1
    n = len(live)
    made = replace(
        live,
        version="2",
        role=np.full(n, SHADOW, np.uint8),
        why=np.full(n, Why.SHADOW, np.uint8),
        outputs={"prediction": outputs},
        position=np.arange(first, first + n),
    )
    back = [made.take(np.array([place])) for place in reversed(range(n))]
    return back[0] if n == 1 else _joined(back)


def _joined(batches: Sequence[Batch]) -> Batch:
    from mlops.prediction_log.batch import concatenate

    return concatenate(batches)


@pytest.mark.parametrize("is_shadow_first", [False, True])
def test_pairs_are_joined_by_request_id_and_flips_counted_by_the_live_ones_bucket(
    package: Package, make: Callable[[], OutputWindows], is_shadow_first: bool
) -> None:
    live = plain(package, [1, 2, 3, 12], key_bucket=np.array([7, 7, 8, 9], np.uint8))
    # One more that the shadow never saw.
    alone = plain(package, [4], first=9)
    copied = shadow(package, live, flipped=[0, 3], first=20)
    windows = make()
    for batch in (copied, live, alone) if is_shadow_first else (live, alone, copied):
        windows.add(batch)
    found = given(windows, Given())
    first, second = (found["aa", 1, COMPARED, START_NS + start * SECOND] for start in (0, 10))
    assert (first.pairs[[7, 8]].tolist(), first.flips[[7, 8]].tolist()) == ([2, 1], [1, 0])
    assert (int(first.pairs.sum()), int(second.pairs[9]), int(second.flips[9])) == (3, 1, 1)
    assert found["aa", 2, SHADOW, START_NS].answers == 3


def test_what_waits_for_its_pair_is_bounded() -> None:
    def signals(first: int, n: int) -> Signals:
        numbers = np.arange(n)
        return Signals(
            "1",
            np.full(n, "aa", object),
            np.array([f"{first + place}" for place in range(n)], object),
            np.zeros(n, np.int64),
            np.zeros(n, np.uint8),
            numbers,
            numbers + 1,
            np.ones(n, np.int8),
        )

    pairs = Pairs(max_waiting=100)
    for first in range(0, 1_000, 50):
        assert pairs.add_live(signals(first, 50)) == []
    # Of the oldest, which went; of the newest, which wait.
    assert len(pairs.add_shadow(signals(0, 50))) == 0
    assert len(pairs.add_shadow(signals(950, 50))) == 50
    for first in range(2_000, 3_000, 50):
        pairs.add_shadow(signals(first, 50))
    assert len(pairs.add_live(signals(2_000, 50))) == 0
    assert len(pairs.add_live(signals(2_950, 50))) == 50
