"""The history of splits in the log, and what it proves of the routing of every record."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.prediction_log.replay import replay
from mlops.prediction_log.routed import Routed
from mlops.prediction_log.splits import SPLITS, read_splits, remove_old
from mlops.routing import upper_bound
from mlops.routing.hashing import key_bucket, routing_hash
from mlops.tap import Split, Why
from tests.support.logs import Log
from tests.support.tap import record
from tests.support.taps import SLOT_BYTES, TapLife, version
from tickserve.errors import DamagedTapError

TOP = (1 << 64) - 1


def split(generation: int, share_bp: int, salt: bytes = b"salt") -> Split:
    return Split("demo", generation, salt, ((upper_bound(share_bp), "2", 2), (TOP, "1", 1)))


def ask(life: TapLife, by: Split, key: bytes, *, is_wrong: bool = False, **fields: Any) -> None:
    """One request under a split, recorded where it sends the key, or elsewhere."""
    life.catalog.split(by)
    is_second = (routing_hash(by.salt, key) <= by.segments[0][0]) != is_wrong
    usual: dict[str, Any] = {
        "version": life.catalog.version(version("2" if is_second else "1")),
        "split_generation": by.generation,
        "routing_key": key,
        "key_bucket": key_bucket(by.salt, key),
        "inputs": (),
        "outputs": (),
        "flags": 0,
    }
    life.writers[0].write(record(**(usual | fields)))


def routed(log: Log) -> Routed:
    found = Routed()
    for batch in log.all():
        found.add(batch, read_splits(log.folder))
    return found


def test_every_request_is_proven_by_the_split_that_it_had(tap: Path, tmp_path: Path) -> None:
    life, log = TapLife(tap, slot_bytes=SLOT_BYTES), Log(tap, tmp_path / "log")
    for generation, share_bp in enumerate((1_000, 5_000, 9_000), 1):
        for number in range(30):
            ask(life, split(generation, share_bp), f"key-{number}".encode())
        log.drain()
        if generation == 2:
            log.restart()
    # No routing key: the request id is the key.
    last = split(3, 9_000)
    ask(life, last, b"request", routing_key=b"", request_id=b"request")
    log.drain()
    found = routed(log)
    assert (found.checked, found.wrong, found.without_history) == (91, 0, 0)


def test_what_went_elsewhere_is_told_and_what_no_split_routed_is_none_of_it(tap: Path, tmp_path: Path) -> None:
    life, log = TapLife(tap), Log(tap, tmp_path / "log")
    by = split(1, 5_000)
    ask(life, by, b"right")
    ask(life, by, b"wrong", is_wrong=True)
    ask(life, by, b"bucket", key_bucket=(key_bucket(by.salt, b"bucket") + 1) % 256)
    for why in (Why.PIN, Why.FALLBACK, Why.SHADOW, Why.SMOKE):
        ask(life, by, b"wrong", is_wrong=True, why=why)
    log.drain()
    found = routed(log)
    assert (found.checked, found.wrong, found.without_history) == (3, 2, 0)
    first = found.as_dict()["elsewhere"][0]
    assert {first["version"], first["expected"]} == {"1", "2"}


def test_a_key_that_is_no_text_is_proven_as_it_was(tap: Path, tmp_path: Path) -> None:
    life, log = TapLife(tap), Log(tap, tmp_path / "log")
    for number in range(20):
        ask(life, split(1, 5_000), b"\xff\xfe" + bytes([number]))
        ask(life, split(1, 5_000), rb"\xff" + bytes([65 + number]))
    log.drain()
    assert (routed(log).checked, routed(log).wrong) == (40, 0)


def test_a_log_without_the_history_proves_nothing(tap: Path, tmp_path: Path) -> None:
    life, log = TapLife(tap), Log(tap, tmp_path / "log")
    ask(life, split(1, 5_000), b"key")
    log.drain()
    [batch] = log.all()
    found = replay([batch], lambda *_: None)
    assert (found.routing.checked, found.routing.wrong, found.routing.without_history) == (0, 0, 1)
    assert found.as_dict()["routing"] == {"checked": 0, "wrong": 0, "without_history": 1, "elsewhere": []}
    other = replace(batch, boot=np.array(["another"], object))
    unknown = Routed()
    unknown.add(other, read_splits(log.folder))
    assert unknown.without_history == 1, "generations of another life are other splits"


def test_splits_are_in_the_log_before_any_record_that_they_routed(
    tap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, log = TapLife(tap), Log(tap, tmp_path / "log")
    ask(life, split(1, 5_000), b"first")
    log.drain()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    ask(life, split(2, 1_000), b"second")
    with monkeypatch.context() as patched:
        patched.setattr("mlops.prediction_log.splits.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            log.follower.poll()
        assert sum(map(len, log.all())) == 1, "it stays in the ring"
    log.drain()
    assert (routed(log).checked, routed(log).without_history) == (2, 0)


def test_a_split_that_changes_alone_is_kept_too(tap: Path, tmp_path: Path) -> None:
    life, log = TapLife(tap), Log(tap, tmp_path / "log")
    for generation, share_bp in enumerate((5_000, 5_001, 5_002), 1):
        for number in range(10):
            ask(life, split(generation, share_bp), f"key-{number}".encode())
        log.drain()
    assert (routed(log).checked, routed(log).without_history) == (30, 0)


def test_splits_go_when_the_records_of_their_boot_are_gone(tap: Path, tmp_path: Path) -> None:
    life, log = TapLife(tap), Log(tap, tmp_path / "log")
    ask(life, split(1, 5_000), b"key")
    log.drain()
    path = log.folder / SPLITS / f"{life.name}.jsonl"
    os.utime(path, (0, 0))
    life.end()
    log.drain()
    # The boot ended just now, so its last records are of now.
    remove_old(log.folder, 1_000.0)
    assert read_splits(log.folder).keys() == {life.name}
    os.utime(path, (0, 0))
    remove_old(log.folder, 1_000.0)
    assert read_splits(log.folder) == {}


@pytest.mark.parametrize("content", ["{\n", '{"kind":"split","model":"demo","generation":1,"salt":"","segments":[]}\n'])
def test_a_damaged_history_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / SPLITS).mkdir()
    (tmp_path / SPLITS / "ab.jsonl").write_text(content)
    with pytest.raises(DamagedTapError, match=r"ab\.jsonl"):
        read_splits(tmp_path)


def test_many_records_are_told_of_at_most_so_many(tap: Path, tmp_path: Path) -> None:
    life, log = TapLife(tap, slots=2048), Log(tap, tmp_path / "log")
    for number in range(150):
        ask(life, split(1, 5_000), f"k{number}".encode(), is_wrong=True)
    log.drain()
    found = routed(log)
    assert (found.wrong, len(found.elsewhere)) == (150, 100)
