"""Drift in the sidecar: each version watched, each window told once, whatever is killed in between."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.metrics_core import Metric

from mlops.drift import DriftMonitor, WindowResult, default_spec
from mlops.drift.table import WindowTable, read_windows
from mlops.package import Package, add_version, read_package
from mlops.prediction_log import Batch, parquet
from mlops.sidecar.drift import DriftConsumer, read_specs
from mlops.sidecar.packages import PackageFinder
from mlops.tap import Why
from tests.support.drift import DAY_NS
from tests.unit.package.builders import LATER, WEIGHTS, build_small
from tickserve.errors import ConfigurationError, DamagedLogError

RNG = np.random.default_rng(12)
ROWS = RNG.normal(size=(400, 3)).astype(np.float32)
SPECS = {"small": {"window": "count:100"}}


def batch_of(package: Package, inputs: np.ndarray, first: int = 0, *, version: str = "1") -> Batch:
    """One record a row, a day apart, with the outputs of the model."""
    n = len(inputs)
    numbers = np.arange(n, dtype=np.int64)
    start = int(LATER[-1].astype("datetime64[ns]").astype(np.int64))
    times = start + (numbers + first) * DAY_NS
    zeros = np.zeros(n, np.uint64)
    text = np.full(n, "", object)
    return Batch(
        model="small",
        version=version,
        digest=package.digest,
        position=numbers + first,
        time_ns=times,
        event_time_ns=times,
        rows=np.ones(n, np.uint32),
        status=zeros.astype(np.uint8),
        reason=zeros.astype(np.uint8),
        role=np.ones(n, np.uint8),
        why=np.full(n, Why.SPLIT, np.uint8),
        flags=zeros.astype(np.uint16),
        key_bucket=zeros.astype(np.uint8),
        request_id=text,
        routing_key=text,
        entities=[()] * n,
        plan_generation=zeros + 1,
        split_generation=zeros,
        stage_ns=np.zeros((n, 6), np.uint64),
        inputs={"features": inputs},
        outputs={"prediction": inputs @ WEIGHTS},
        input_records=numbers,
        output_records=numbers,
        shapes={"features": (-1, 3), "prediction": (-1, 1)},
        boot=text,
        ring=np.zeros(n, np.uint32),
        sequence=zeros,
        missed=np.zeros(n, np.int64),
    )


@pytest.fixture
def package(tmp_path: Path) -> Package:
    _, folder = add_version(tmp_path / "models", build_small(tmp_path / "built"))
    return read_package(folder)


class Told:
    """A sidecar's drift, and what it told the alerts."""

    def __init__(self, home: Path) -> None:
        self.windows: list[WindowResult] = []
        self.home = home
        self.log: list[Batch] = []
        self.consumer = self.made()

    def made(self) -> DriftConsumer:
        finder = PackageFinder(self.home, self.home / "models")
        return DriftConsumer(finder, self.home / "drift", SPECS, self.take, self.read)

    def read(self, model: str, version: str, after: int) -> Iterator[Batch]:
        for batch in list(self.log):
            if (batch.model, batch.version) == (model, version) and (batch.position > after).any():
                yield batch.take(batch.position > after)

    def take(self, results: Sequence[WindowResult]) -> None:
        """As the alerts do: what they have been told already tells them nothing."""
        self.windows += [result for result in results if result not in self.windows]


def series(metrics: Sequence[Metric], name: str) -> dict[tuple[str, ...], float]:
    [family] = [metric for metric in metrics if metric.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_windows_are_told_stored_and_exported(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    moved = ROWS.copy()
    moved[100:, 1] += 4
    told.consumer.add(batch_of(package, moved[:200]))

    assert [result.decisions[1].state for result in told.windows] == ["ok", "critical"]
    assert list(read_windows(tmp_path / "drift", "small")) == told.windows
    assert told.consumer.latest == [told.windows[1]]
    metrics = list(told.consumer.collect())
    states = series(metrics, "tickserve_drift_state")
    assert states["small", "1", "input", "rsi", "critical"] == 1
    assert states["small", "1", "input", "momentum", "ok"] == 1
    assert sum(states.values()) == 4
    value = told.windows[1].figure("input", "rsi", "psi").value
    assert series(metrics, "tickserve_drift_value")["small", "1", "input", "rsi", "psi"] == value
    end = series(metrics, "tickserve_drift_window_end_timestamp_seconds")
    assert end["small", "1"] == pytest.approx(told.windows[1].end_ns / 1e9)


def test_undefined_is_absent(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    told.consumer.add(batch_of(package, np.full((100, 3), np.nan, np.float32)))
    values = series(list(told.consumer.collect()), "tickserve_drift_value")
    assert ("small", "1", "input", "rsi", "w1") not in values
    assert values["small", "1", "input", "rsi", "missing"] == 1.0


@pytest.mark.parametrize("killed_at", [0, 30, 100, 150])
def test_what_is_counted_again_after_a_kill_is_told_and_stored_once(
    tmp_path: Path, package: Package, killed_at: int
) -> None:
    whole = Told(tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "models").symlink_to(tmp_path / "models")
    whole.consumer.add(batch_of(package, ROWS))

    told = Told(tmp_path)
    saved = told.consumer.checkpoint()
    if killed_at:
        told.consumer.add(batch_of(package, ROWS[:killed_at]))
        saved = told.consumer.checkpoint()
    # After its checkpoint it went on, and was killed.
    told.consumer.add(batch_of(package, ROWS[killed_at:250], killed_at))
    again = told.made()
    again.restore(saved)
    again.add(batch_of(package, ROWS[killed_at:], killed_at))

    assert told.windows == whole.windows
    assert list(read_windows(tmp_path / "drift")) == whole.windows
    assert again.checkpoint() == whole.consumer.checkpoint()
    assert again.latest == whole.consumer.latest


def test_a_state_waits_for_its_version_and_is_not_lost(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    told.consumer.add(batch_of(package, ROWS[:30]))
    saved = told.consumer.checkpoint()
    again = told.made()
    again.restore(saved)
    assert again.checkpoint() == saved


def test_a_window_that_was_stored_but_not_told_is_told_at_the_next_start(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    told.take = lambda results: None  # type: ignore[method-assign]
    told.made().add(batch_of(package, ROWS[:100]))
    again = Told(tmp_path)
    again.consumer.add(batch_of(package, ROWS[100:120], 100))
    assert again.windows == again.consumer.latest
    assert [result.rows for result in again.windows] == [100]


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    told.consumer.add(batch_of(package, ROWS[:30]))
    for bad in (b"", b"{}", told.consumer.checkpoint()[:-20]):
        with pytest.raises(ValueError, match="not a checkpoint"):
            told.made().restore(bad)


def test_a_version_without_a_package_is_left_out_and_the_others_are_not(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    lost = batch_of(package, ROWS[:100])
    object.__setattr__(lost, "digest", "0" * 64)
    told.consumer.add(lost)
    told.consumer.add(batch_of(package, ROWS[:100]))
    assert [result.digest for result in told.windows] == [package.digest]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_records_that_came_before_their_package_are_counted_once_it_is_there(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch, is_restarted: bool
) -> None:
    whole = Told(tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "models").symlink_to(tmp_path / "models")
    whole.consumer.add(batch_of(package, ROWS[:350]))

    monkeypatch.setattr("mlops.sidecar.drift._RETRY_S", 0.0)
    (tmp_path / "models").rename(tmp_path / "away")
    told = Told(tmp_path)
    for begin, end in ((0, 120), (120, 250), (250, 260), (260, 350)):
        if begin == 250:
            (tmp_path / "away").rename(tmp_path / "models")
            if is_restarted:
                saved = told.consumer.checkpoint()
                told.consumer = told.made()
                told.consumer.restore(saved)
        told.log.append(batch_of(package, ROWS[begin:end], begin))
        told.consumer.add(told.log[-1])
        if begin == 260:
            told.log.append(batch_of(package, ROWS[:3], 350, version="2"))
        told.consumer.tick()
    # Each takes a bounded time, and a batch at least.
    for _ in range(10):
        told.consumer.tick()
    assert told.windows == whole.windows
    assert told.consumer.checkpoint() == whole.consumer.checkpoint()


def test_tensors_that_are_not_the_packages_end_one_version_alone(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    narrow = batch_of(package, ROWS[:100], version="2")
    object.__setattr__(narrow, "inputs", {"features": ROWS[:100, :1]})
    object.__setattr__(narrow, "shapes", {"features": (-1, 1), "prediction": (-1, 1)})
    told.consumer.add(narrow)
    told.consumer.add(batch_of(package, ROWS[:100]))
    assert [result.version for result in told.windows] == ["1"]


def test_versions_are_watched_apart(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    told.consumer.add(batch_of(package, ROWS[:60]))
    told.consumer.add(batch_of(package, ROWS[:60], version="2"))
    assert told.windows == []
    told.consumer.add(batch_of(package, ROWS[60:100], 60, version="2"))
    assert [(result.version, result.rows) for result in told.windows] == [("2", 100)]


def test_a_line_that_was_torn_is_written_again(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    told.consumer.add(batch_of(package, ROWS[:300]))
    file = tmp_path / "drift" / "small" / "1.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    assert list(read_windows(tmp_path / "drift")) == told.windows[:2]
    assert WindowTable(tmp_path / "drift").append(told.windows) == told.windows[2:]
    assert file.read_bytes() == whole
    assert WindowTable(tmp_path / "drift").append(told.windows) == []


@pytest.mark.parametrize("line", [b"{\n", b'{"of": "another version"}\n', b"[]\n"])
def test_a_damaged_line_stops_readers_and_not_the_sidecar(tmp_path: Path, package: Package, line: bytes) -> None:
    told = Told(tmp_path)
    told.consumer.add(batch_of(package, ROWS[:200]))
    file = tmp_path / "drift" / "small" / "1.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + line)

    again = Told(tmp_path)
    assert again.consumer.latest == told.windows[-1:]
    again.consumer.add(batch_of(package, ROWS))
    assert len(again.windows) == 1 + 2, "the last one again, and those that are new"
    assert file.read_bytes().startswith(whole + line), "what is damaged stays for somebody to look at"
    with pytest.raises(DamagedLogError, match=r"1\.jsonl"):
        list(read_windows(tmp_path / "drift"))


def test_a_table_is_bounded_and_keeps_the_newest(tmp_path: Path, package: Package) -> None:
    told = Told(tmp_path)
    told.consumer.add(batch_of(package, ROWS))
    size = (tmp_path / "drift" / "small" / "1.jsonl").stat().st_size
    small = WindowTable(tmp_path / "few", max_bytes=size * 5 // 8)
    assert small.append(told.windows) == told.windows
    assert list(read_windows(tmp_path / "few")) == told.windows[2:]
    assert small.latest() == told.windows[-1:]
    assert small.append(told.windows) == []


def test_settings_of_models_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "drift.json"
    assert read_specs(file) == {}
    file.write_text(json.dumps({"small": {"window": "time:2h", "budget_days": 30}}))
    assert read_specs(file)["small"]["budget_days"] == 30
    for bad in ("{", "[]", '{"small": 3}', '{"small": {"windows": "time:2h"}}', '{"small": {"window": "2h"}}'):
        file.write_text(bad)
        with pytest.raises(ConfigurationError):
            read_specs(file)


def test_parquet_gives_the_same_windows_bit_for_bit(tmp_path: Path, package: Package) -> None:
    live = batch_of(package, ROWS)
    # Asked for on one day, as a replay is; the days are those of the features.
    object.__setattr__(live, "time_ns", live.event_time_ns[-1] + np.arange(len(ROWS), dtype=np.int64))
    told = Told(tmp_path)
    told.consumer.add(live)

    parquet.write(tmp_path / "log", [live.take(np.arange(0, 150)), live.take(np.arange(150, 400))])
    groups = parquet.groups(tmp_path / "log", before=None, after=-1)
    batches = [batch for group in groups for batch in parquet.read_group(group)]
    assert sum(len(batch) for batch in batches) == 400
    assert package.baseline is not None
    monitor = DriftMonitor(
        package.manifest, package.baseline, default_spec(package.manifest, package.baseline, rows=100)
    )
    assert [result for batch in batches for result in monitor.add(batch)] == told.windows
    assert len(told.windows) == 4
