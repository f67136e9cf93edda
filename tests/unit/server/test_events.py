"""Events of a server: in order, waited for, in a file that outlives the process and its disk's bad days."""

import json
from pathlib import Path

from server.models import (
    EventLog,
)


def test_events_are_kept_in_order_waited_for_and_written(tmp_path: Path) -> None:
    events = EventLog(tmp_path / "state" / "events.jsonl")
    events.add("halted", model="demo", actor="kim", message="bad fills")
    events.add("installed", model="demo", version="2")
    assert [event.kind for event in events.after(0)] == ["halted", "installed"]
    assert [event.kind for event in events.after(1)] == ["installed"]
    assert events.after(2, wait_s=0.01) == []

    def written() -> list[tuple[int, str, str]]:
        lines = map(json.loads, (tmp_path / "state" / "events.jsonl").read_text().splitlines())
        return [(line["sequence"], line["kind"], line["actor"]) for line in lines]

    # What a person did is there at once.
    assert written() == [(1, "halted", "kim")]
    events.flush()
    assert written() == [(1, "halted", "kim"), (2, "installed", "")]
    events.add("failed", model="demo", version="3")
    events.close()
    assert written()[2:] == [(3, "failed", "")]


def test_sequences_of_events_go_on_over_a_restart(tmp_path: Path) -> None:
    audit = tmp_path / "events.jsonl"
    events = EventLog(audit)
    events.add("halted", model="demo", actor="kim", message="bad fills")
    # Told, and never written: the process was killed.
    events.add("installed", model="demo", version="2")
    seen = events.newest
    again = EventLog(audit)
    assert again.after(seen) == []
    again.add("resumed", model="demo", actor="kim")
    assert [event.kind for event in again.after(seen)] == ["resumed"]
    [event] = again.after(0)
    assert event.sequence == again.newest > seen + 1
    # Torn, and just renamed.
    audit.write_bytes(audit.read_bytes()[:-20])
    assert EventLog(audit).newest > event.sequence
    audit.rename(tmp_path / "events.jsonl.1")
    assert EventLog(audit).newest > event.sequence
    for damage in (b"", b"\xff\n{}\n[]\n", b'{"sequence": 99999999999999999999}\n', b'{"sequence": null}\n'):
        audit.write_bytes(damage)
        assert EventLog(audit).newest == event.sequence + 1024


def test_line_of_the_events_that_was_torn_costs_no_other(tmp_path: Path) -> None:
    audit = tmp_path / "events.jsonl"
    EventLog(audit).add("halted", model="demo", actor="kim", message="bad fills")
    whole = audit.read_bytes()
    audit.write_bytes(whole[:-20])
    EventLog(audit).add("resumed", model="demo", actor="kim")
    torn, resumed = audit.read_text().splitlines()
    assert torn == whole[:-20].decode()
    assert json.loads(resumed)["kind"] == "resumed"
