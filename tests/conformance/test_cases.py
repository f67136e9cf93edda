"""Every case against every engine: what is sent, what comes back and what is counted, all of what the case states."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from google.protobuf.message import Message

from server.engine.base import Counters
from tests.conformance.case import FAULTS, VARIES, Case, Expected
from tests.conformance.cases import CASES
from tests.conformance.conftest import ENGINES
from tests.conformance.exchange import Exchange, exchange, flat_counts
from tests.conformance.running import Server
from tests.conformance.served import Served

_STAGES_OF_TOTAL = ("decode", "validate_input", "run", "validate_output", "encode")


@pytest.fixture(scope="module")
def server_of(engine_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Served], Server]]:
    """Starts a server, or gives the one that the case before left where it serves the same."""
    running: list[Server] = []

    def give(served: Served) -> Server:
        if not running or running[-1].served != served:
            while running:
                running.pop().stop()
            engine = ENGINES[engine_name](**served.bounds)
            running.append(Server(engine, served, tmp_path_factory.mktemp("served")))
        return running[-1]

    yield give
    while running:
        running.pop().stop()


@pytest.mark.parametrize("case", sorted(CASES, key=lambda case: case.served.name), ids=str)
def test_case(server_of: Callable[[Served], Server], case: Case) -> None:
    server = server_of(case.served)
    before = server.engine.counters()
    seen = exchange(server.channel, case)
    after = server.engine.counters()
    check_status(seen, case.expected)
    check_replies(seen, case.expected)
    check_counts(before, after, case.expected)
    # The faults that the case expects are told in the log, and nowhere else.
    assert len(server.engine.take_faults()) == case.expected.counts.get(("", FAULTS), 0)


def check_status(seen: Exchange, expected: Expected) -> None:
    wanted = (expected.status, expected.reason, expected.executed, expected.field)
    assert (seen.status, seen.reason, seen.executed, seen.field) == wanted, seen.text
    if expected.text is not None:
        assert without_figures(seen.text, expected.text) == expected.text


def without_figures(text: str, expected: str) -> str:
    """The text with the figure that varies replaced, where what stands around it is as expected."""
    start, varies, end = expected.partition(VARIES)
    is_around = text.startswith(start) and text.endswith(end) and len(text) > len(start) + len(end)
    return expected if varies and is_around else text


def check_replies(seen: Exchange, expected: Expected) -> None:
    for number, (data, wanted) in enumerate(zip(seen.replies, expected.replies, strict=False)):
        reply = type(wanted.message).FromString(data)
        assert clear(reply, wanted.varies) == wanted.varies, f"reply {number}:\n{reply}"
        take_out_figures(reply, wanted.message)
        # Bytes, because a message calls NaN unlike itself and zero like its negative.
        is_equal = as_bytes(reply) == as_bytes(wanted.message)
        assert is_equal, f"reply {number}:\n{reply}\nexpected:\n{wanted.message}"
    assert len(seen.replies) == len(expected.replies)


def clear(message: Message, names: frozenset[str]) -> set[str]:
    """Clears the fields of these names in the message and all within it; returns those that were set."""
    found = set()
    for descriptor, value in message.ListFields():
        if descriptor.name in names:
            found.add(descriptor.name)
            message.ClearField(descriptor.name)
        elif isinstance(value, Message):
            found |= clear(value, names)
    return found


def take_out_figures(message: Message, expected: Message) -> None:
    """Replaces in the texts of a message the figures that vary."""
    for descriptor, value in expected.ListFields():
        if isinstance(value, str):
            setattr(message, descriptor.name, without_figures(getattr(message, descriptor.name), value))
        elif isinstance(value, Message) and message.HasField(descriptor.name):
            take_out_figures(getattr(message, descriptor.name), value)


def as_bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def check_counts(before: Counters, after: Counters, expected: Expected) -> None:
    old = flat_counts(before)
    change = {key: count - old.get(key, 0) for key, count in flat_counts(after).items()}
    assert {key: count for key, count in change.items() if count} == expected.counts
    assert after.in_flight == 0
    for version in after.versions:
        stages: Mapping[str, Any] = version.stages
        assert {sum(stage.counts) for stage in stages.values()} == {version.answered}
        assert sum(stages[name].sum_ns for name in _STAGES_OF_TOTAL) == stages["total"].sum_ns
