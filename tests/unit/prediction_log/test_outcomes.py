"""Outcomes: on disk before they are acknowledged, in one order, as known at any time; and which of them are known."""

import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.prediction_log.index import LogIndex, fingerprints
from mlops.prediction_log.keeping import compact
from mlops.prediction_log.outcomes import OutcomeStore, ReportedOutcome, last_known, read_outcomes
from mlops.sidecar.service import MAX_OUTCOMES, OutcomesService, RefusedError
from tests.support.logs import Log
from tests.support.taps import TapLife
from tickserve.errors import DamagedLogError
from tickserve.v1 import outcomes_pb2 as pb

NOW = 1_800_000_000 * 10**9
EVENT = 1_790_000_000 * 10**9


def reported(name: str = "a", **changes: Any) -> ReportedOutcome:
    usual = ReportedOutcome(name, "request", 0, "", "", 0, "1d", 0.5, NOW)
    return usual._replace(**changes)


def message(name: str, **changes: Any) -> pb.Outcome:
    usual: dict[str, Any] = {
        "outcome_id": name,
        "request_row": pb.RequestRow(request_id="request", row=0),
        "horizon": "1d",
        "value": 0.5,
        "available_at_unix_ns": NOW,
    }
    if "entity_time" in changes:
        usual.pop("request_row")
    return pb.Outcome(**(usual | changes))


def test_the_same_id_again_is_a_duplicate_and_a_correction_is_appended(tmp_path: Path) -> None:
    clock = [NOW]
    store = OutcomeStore(tmp_path, lambda: clock[0])
    assert [each.order for each in store.add([reported("a"), reported("b", row=1), reported("a", value=9)])] == [1, 2]
    clock[0] -= 10**9
    (correction,) = store.add([reported("c", value=0.7, available_at_ns=NOW + 1), reported("a", value=3)])
    assert correction.recorded_at_ns == NOW, "a clock that is set back does not reorder what was known when"
    clock[0] = NOW + 5
    store.add([reported("d", value=0.6)])
    store.close()
    assert [each.value for each in read_outcomes(tmp_path)] == [0.5, 0.5, 0.7, 0.6]
    assert [each.outcome_id for each in last_known(read_outcomes(tmp_path))] == ["b", "c"]
    assert [each.outcome_id for each in read_outcomes(tmp_path, until_recorded_ns=NOW)] == ["a", "b", "c"]
    assert [each.outcome_id for each in read_outcomes(tmp_path, after_order=3)] == ["d"]
    again = OutcomeStore(tmp_path, lambda: NOW)
    assert again.last_order == 4
    assert [each.recorded_at_ns for each in again.add([reported("e")])] == [NOW + 5]
    again.close()


def test_what_was_acknowledged_survives_a_process_that_is_killed_at_once(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from pathlib import Path
        from mlops.prediction_log.outcomes import OutcomeStore, ReportedOutcome
        store = OutcomeStore(Path({str(tmp_path)!r}))
        store.add([ReportedOutcome(f"o{{n}}", "r", n, "", "", 0, "1d", float(n), 1) for n in range(2000)])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -9
    assert [each.row for each in read_outcomes(tmp_path)] == list(range(2000))


def test_a_store_that_cannot_be_written_takes_nothing_of_a_batch(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path)
    store.add([reported("a")])
    store._connection.execute("PRAGMA max_page_count=1")
    with pytest.raises(sqlite3.Error, match="full"):
        store.add([reported(f"b{number}", horizon="x" * 60) for number in range(5000)])
    store._connection.execute("PRAGMA max_page_count=1000000")
    assert [each.order for each in store.add([reported("c")])] == [2]
    store.close()


@pytest.mark.parametrize("content", [b"", b"garbage" * 9000])
def test_an_index_that_is_damaged_makes_outcomes_unknown_and_no_more(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / f"{0:020d}-{1:020d}.npy").write_bytes(content)
    np.save(tmp_path / "index" / f"{2:020d}-{3:020d}.npy", np.arange(3))
    assert LogIndex(tmp_path).known([reported()]).tolist() == [False]


def test_a_store_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "outcomes.db").write_bytes(b"garbage" * 9000)
    with pytest.raises(DamagedLogError, match=r"outcomes.db is no database of outcomes: .*move it away"):
        OutcomeStore(tmp_path)


def test_known_and_unknown_late_and_duplicate_are_counted(tap: Path, tmp_path: Path) -> None:
    log, life = Log(tap, tmp_path, segment_bytes=1), TapLife(tap)
    written = life.write(3, size=2, event_time_unix_ns=EVENT) + life.write(1, event_time_unix_ns=EVENT + 1)
    index = LogIndex(tmp_path)
    for batch in log.drain():
        index.add(batch)
    store = OutcomeStore(tmp_path)
    service = OutcomesService(store, index, late_s=60.0, now_ns=lambda: NOW)
    names = [item.request_id.decode() for item in written]

    def row(number: int, at: int) -> pb.RequestRow:
        return pb.RequestRow(request_id=names[number], row=at)

    def about(entity: str, event: int, model: str = "demo") -> pb.EntityTime:
        return pb.EntityTime(model=model, entity=entity, event_time_unix_ns=event)

    batch = [
        message("1", request_row=row(0, 1)),
        message("2", request_row=row(0, 2)),
        message("3", request_row=row(3, 0), available_at_unix_ns=NOW - 61 * 10**9),
        message("4", request_row=row(3, 1)),
        message("5", entity_time=about("EURUSD", EVENT)),
        message("6", entity_time=about("EURUSD", EVENT + 2)),
        message("7", entity_time=about("EURUSE", EVENT)),
        message("8", entity_time=about("EURUSD", EVENT, "other")),
        message("9", entity_time=about("trend", EVENT), horizon="pnl"),
        message("1", request_row=row(1, 0)),
    ]
    answer = service.report(pb.ReportRequest(outcomes=batch))
    assert (answer.accepted, answer.duplicate, answer.unknown) == (9, 1, 5)
    assert service.counts == {"accepted": 9, "duplicate": 1, "unknown": 5, "late": 1}
    again = service.report(pb.ReportRequest(outcomes=batch))
    assert (again.accepted, again.duplicate, again.unknown) == (0, 10, 0)
    # The same from what is Parquet, and after a restart.
    life.write(1)
    for batch_ in log.drain():
        index.add(batch_)
    compact(tmp_path, index)
    (kept,) = (tmp_path / "index").iterdir()
    assert kept.stat().st_size < 1000
    for fresh in (index, LogIndex(tmp_path)):
        known = fresh.known([reported("x", request_id=names[0], row=1), reported("y", request_id=names[0], row=2)])
        assert known.tolist() == [True, False]
    index.forget(1 << 60)
    assert index.known([reported("x", request_id=names[0])]).tolist() == [False]
    store.close()


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (message(""), r"outcomes\[1\].outcome_id has 0 bytes"),
        (message("é" * 33), r"outcomes\[1\].outcome_id has 66 bytes, it must have 1 to 64"),
        (message("a", horizon=""), r"outcomes\[1\].horizon has 0 bytes"),
        (message("a", value=float("nan")), r"outcomes\[1\].value is nan"),
        (message("a", value=float("inf")), r"outcomes\[1\].value is inf"),
        (message("a", available_at_unix_ns=0), "must be after 1970"),
        (message("a", available_at_unix_ns=NOW + 301 * 10**9), "not in the future"),
        (message("a", request_row=pb.RequestRow()), "request_row.request_id has 0 bytes"),
        (pb.Outcome(outcome_id="a", horizon="1d", available_at_unix_ns=1), "names no prediction"),
        (message("a", entity_time=pb.EntityTime(model="m", entity="e")), "event_time_unix_ns is 0"),
    ],
)
def test_a_batch_with_one_that_cannot_be_is_refused_whole(tmp_path: Path, outcome: pb.Outcome, said: str) -> None:
    store = OutcomeStore(tmp_path)
    service = OutcomesService(store, LogIndex(tmp_path), 60.0, lambda: NOW)
    with pytest.raises(RefusedError, match=said):
        service.report(pb.ReportRequest(outcomes=[message("ok"), outcome]))
    assert list(read_outcomes(tmp_path)) == []
    store.close()


def test_a_batch_has_a_bound(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path)
    service = OutcomesService(store, LogIndex(tmp_path), 60.0, time.time_ns)
    many = [message(f"{number}") for number in range(MAX_OUTCOMES + 1)]
    with pytest.raises(RefusedError, match="10001 outcomes are more than 10000"):
        service.report(pb.ReportRequest(outcomes=many))
    store.close()


@settings(max_examples=50)
@given(st.lists(st.text(max_size=70), unique=True, min_size=1, max_size=200))
def test_a_fingerprint_is_of_the_text_alone(texts: list[str]) -> None:
    # Zeros at the end of a text are what NumPy fills up with.
    texts = [text for text in texts if "\0" not in text]
    together = fingerprints(texts).tolist()
    assert together == [int(fingerprints([text])[0]) for text in texts]
    assert len(set(together)) == len(texts)
