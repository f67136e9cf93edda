"""What is desired, while the source that says it does not answer."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from server.models import Desired, EventLog, ModelDesired
from server.models.values import only
from server.models.watching import DesiredWatch
from tickserve.errors import UnreachableError

BOUND_S = 60.0


def desired(version: str) -> Desired:
    return Desired({"demo": ModelDesired("demo", int(version), (only(version),), {})}, int(version))


class HangingSource:
    """Answers when the test says so; an earlier process kept version 1."""

    name = "registry"

    def __init__(self, kept: Desired | None) -> None:
        self.kept = kept
        self.asked, self.answer = threading.Event(), threading.Event()
        self.is_away = False

    def read(self) -> Desired:
        self.asked.set()
        assert self.answer.wait(BOUND_S)
        if self.is_away:
            raise UnreachableError("connection refused")
        return desired("2")

    def last_good(self) -> Desired | None:
        return self.kept


class Hung:
    """A watch whose first reading is under way."""

    def __init__(self, kept: Desired | None) -> None:
        self.now = 0.0
        self.source, self.events = HangingSource(kept), EventLog()
        source: Any = self.source
        self.watch = DesiredWatch(source, self.events, lambda: self.now)
        self.thread = threading.Thread(target=self.watch.refresh)
        self.thread.start()
        assert self.source.asked.wait(BOUND_S)

    def end(self) -> None:
        self.source.answer.set()
        self.thread.join(BOUND_S)


@pytest.fixture
def hung() -> Iterator[Hung]:
    made = Hung(desired("1"))
    yield made
    made.end()


def test_what_an_earlier_process_kept_is_obeyed_until_the_source_answers(hung: Hung) -> None:
    assert hung.watch.desired is None
    assert hung.watch.fall_back()
    assert hung.watch.desired == desired("1")
    assert hung.watch.fall_back()
    assert [event.kind for event in hung.events.after(0)] == ["last_good_state"]
    hung.end()
    assert hung.watch.desired == desired("2")
    hung.source.kept = desired("3")
    assert hung.watch.fall_back()
    assert hung.watch.desired == desired("2")


def test_without_anything_kept_there_is_nothing_to_obey() -> None:
    hung = Hung(None)
    assert not hung.watch.fall_back()
    assert hung.watch.desired is None
    hung.end()


def test_source_that_does_not_answer_is_said_to_be_away(hung: Hung) -> None:
    assert hung.watch.error == ""
    hung.now += 7.0
    assert hung.watch.error == "the registry has not answered for 7 s"
    hung.end()
    assert hung.watch.error == ""
    hung.source.is_away = True
    hung.watch.refresh()
    assert hung.watch.error == "connection refused"
