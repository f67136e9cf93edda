"""Faults where they happen: processes that are killed at any point, and a disk that takes no more."""

import os
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mlops.prediction_log import parquet
from mlops.prediction_log.reading import PARQUET, SEGMENTS, read_all, read_log
from mlops.prediction_log.segments import SegmentWriter
from mlops.tap import default_folder, layout
from mlops.tap.layout import HEADER_BYTES
from tests.e2e.conftest import Launcher
from tests.e2e.test_sidecar import beside
from tests.support.taps import SLOT_BYTES, TapLife, taken, version

KILLS = int(os.environ.get("TICKSERVE_KILLS", "3"))


def accounts(log: Path, lives: list[TapLife], *, damaged: int = 0) -> None:
    """Records in the log and sequences that are missing are all that rings ever gave; nothing is there twice."""
    batches = list(read_all(log))
    positions = np.concatenate([batch.position for batch in batches])
    places = {
        (boot, int(ring), int(sequence))
        for batch in batches
        for boot, ring, sequence in zip(batch.boot, batch.ring, batch.sequence, strict=True)
    }
    assert sorted(positions.tolist()) == list(range(len(positions)))
    assert len(places) == len(positions)
    writer = SegmentWriter(log / SEGMENTS)
    assert writer.totals.records == len(positions)
    assert writer.totals.damaged == damaged
    assert len(positions) + writer.totals.missed == sum(taken(life) for life in lives)
    writer.close()


@pytest.mark.timeout(300)
@pytest.mark.integration
def test_sidecars_and_servers_that_are_killed_under_load_lose_nothing_and_count_nothing_twice(
    launcher: Launcher,
) -> None:
    dice = random.Random(9)
    folder = default_folder(launcher.home)
    launcher.settings = {"TICKSERVE_SIDECAR_SEGMENT_S": "0.5", "TICKSERVE_SIDECAR_POLL_S": "0.002"}
    lives = [TapLife(folder, rings=2, slots=512)]
    for _ in range(KILLS):
        with beside(launcher, "--models", str(launcher.models)) as running:
            for _ in range(dice.randint(1, 150)):
                life = lives[-1]
                number = str(dice.randint(1, 3))
                for ring in range(2):
                    life.write(dice.randint(1, 40), ring=ring, of=version(number, features=int(number) * 4))
                if dice.random() < 0.02:
                    life.end()
                    lives.append(TapLife(folder, rings=2, slots=512))
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.wait(60)
    lives[-1].end()
    with beside(launcher) as running:
        running.wait_for("tickserve_sidecar_boots", 0)
        assert running.terminate() == 0
    accounts(launcher.home / "log", lives)


def test_a_full_disk_drops_in_the_ring_says_so_and_goes_on_when_there_is_room(launcher: Launcher) -> None:
    folder = default_folder(launcher.home)
    life = TapLife(folder, slots=64)
    with beside(launcher) as running:
        life.write(10)
        running.wait_for("tickserve_sidecar_records_total", 10)
        pid = running.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # Every write beyond this size fails, as on a disk that is full: not one more record has room.
        size = max(path.stat().st_size for path in (launcher.home / "log" / SEGMENTS).iterdir())
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
        life.write(200)
        running.wait_for("tickserve_sidecar_log_blocked", 1)
        assert running.metric("tickserve_sidecar_records_total") == 10
        assert life.writers[0].lag_slots == 64
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        running.wait_for("tickserve_sidecar_log_blocked", 0)
        life.write(1)
        running.wait_for("tickserve_sidecar_records_total", 75)
        assert running.metric("tickserve_sidecar_dropped_total") == 136
        life.end()
        running.wait_for("tickserve_sidecar_boots", 0)
        assert running.terminate() == 0
    accounts(launcher.home / "log", [life])


@pytest.mark.integration
@pytest.mark.parametrize("step_s", [-86_400, 86_400])
def test_a_clock_that_steps_changes_no_order_and_no_count(launcher: Launcher, step_s: int) -> None:
    life = TapLife(default_folder(launcher.home))
    now = time.time_ns()
    with beside(launcher) as running:
        life.write(5, time_unix_ns=now)
        life.write(5, time_unix_ns=now + step_s * 10**9)
        life.write(5, time_unix_ns=now + 1)
        running.wait_for("tickserve_sidecar_records_total", 15)
        assert running.metric("tickserve_sidecar_lag_seconds") < 30
        life.end()
        running.wait_for("tickserve_sidecar_boots", 0)
        assert running.terminate() == 0
    accounts(launcher.home / "log", [life])


def test_a_ring_with_damage_costs_what_was_damaged_and_nothing_else(launcher: Launcher) -> None:
    life = TapLife(default_folder(launcher.home), rings=3)
    for ring in range(3):
        life.write(20, ring=ring)
    with open(life.path / "ring-0", "r+b") as file:
        # One slot is written over, in the midst of the others.
        file.seek(HEADER_BYTES + 7 * SLOT_BYTES)
        file.write(b"\xa5" * SLOT_BYTES)
    with open(life.path / "ring-1", "r+b") as file:
        file.seek(8 * layout.HEAD)
        file.write(b"\xff" * 8)
    with beside(launcher) as running:
        running.wait_for("tickserve_sidecar_records_total", 39)
        assert running.metric("tickserve_sidecar_damaged_total") == 2
        life.write(5, ring=2)
        running.wait_for("tickserve_sidecar_records_total", 44)
        life.end()
        running.wait_for("tickserve_sidecar_boots", 0)
        # The slot's record, and all of the ring that could not be followed.
        assert running.metric("tickserve_sidecar_dropped_total") == 1 + 20
        assert running.terminate() == 0
    accounts(launcher.home / "log", [life], damaged=2)


def test_a_ring_that_cannot_be_opened_is_exported_as_damaged(launcher: Launcher) -> None:
    life = TapLife(default_folder(launcher.home), rings=2)
    life.write(4, ring=1)
    with open(life.path / "ring-0", "r+b") as file:
        file.write(b"x" * 8)
    with beside(launcher) as running:
        running.wait_for("tickserve_sidecar_records_total", 4)
        assert running.metric("tickserve_sidecar_damaged_total") == 1
        life.end()
        running.wait_for("tickserve_sidecar_boots", 0)
        assert running.terminate() == 0
    assert '"boot_read"' not in running.log.read_text()


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_schema_that_changes_between_versions_is_logged_as_each_of_them_was(launcher: Launcher) -> None:
    life, log = TapLife(default_folder(launcher.home)), launcher.home / "log"
    launcher.settings = {"TICKSERVE_SIDECAR_SEGMENT_S": "0.2", "TICKSERVE_SIDECAR_POLL_S": "0.01"}
    wide, narrow = version("1", features=10), version("2", features=4)
    sequences: dict[str, list[int]] = {"1": [], "2": []}

    def write(*counts: int) -> None:
        for place, count in enumerate(counts):
            of = (wide, narrow)[place % 2]
            first = life.writers[0].next_sequence
            assert len(life.write(count, of=of)) == count
            sequences[of.version] += range(first, first + count)

    def in_parquet() -> int:
        return sum(parquet.count(part.path) for part in parquet.parts(log / PARQUET))

    with beside(launcher) as running:
        write(5, 3, 4, 6)
        running.wait_for("tickserve_sidecar_records_total", 18)
        write(2, 7)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(60)
    write(3, 1)
    with beside(launcher) as running:
        write(1, 2, 2)
        life.end()
        running.wait_for("tickserve_sidecar_boots", 0)
        until = time.monotonic() + 60
        while in_parquet() < 36:
            assert time.monotonic() < until, running.log.read_text()
        assert running.metric("tickserve_sidecar_dropped_total") == 0
        assert running.terminate() == 0
    accounts(log, [life])
    for of in (wide, narrow):
        batches = list(read_log(log, "demo", of.version))
        assert [int(each) for batch in batches for each in batch.sequence] == sequences[of.version]
        features = np.concatenate([batch.inputs["features"] for batch in batches])
        assert features.shape == (len(sequences[of.version]), of.inputs[0].shape[1])
        assert features[:, 0].tolist() == sequences[of.version]
        assert {batch.digest for batch in batches} == {of.digest.hex()}
        parts = [parquet.read(part.path) for part in parquet.parts(log / PARQUET, "demo", of.version)]
        assert sum(len(part) for part in parts) == len(sequences[of.version])
