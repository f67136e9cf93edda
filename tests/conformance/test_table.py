"""The table of texts: every entry is met by a case or by a test over time, and has the status of its reason."""

import pytest

from server.engine import texts
from server.engine.texts import Text
from tests.conformance.case import Case
from tests.conformance.cases import CASES

#: The status of each reason; docs of the wire promise it to clients.
STATUS = {
    "INVALID_INPUT": "INVALID_ARGUMENT",
    "NOT_FOUND": "NOT_FOUND",
    "STALE_INPUT": "FAILED_PRECONDITION",
    "PIN_REFUSED": "FAILED_PRECONDITION",
    "HALTED": "FAILED_PRECONDITION",
    "FEATURES_CHANGED": "FAILED_PRECONDITION",
    "OVERLOADED": "RESOURCE_EXHAUSTED",
    "RATE_LIMITED": "RESOURCE_EXHAUSTED",
    "LOADING": "UNAVAILABLE",
    "DRAINING": "UNAVAILABLE",
    "DEADLINE": "DEADLINE_EXCEEDED",
    "OUTPUT_RULE": "INTERNAL",
    "INTERNAL": "INTERNAL",
}
#: Met by tests over time: of load, deadlines and drains.
OVER_TIME = {"DRAINING", "OVERLOADED_IN_FLIGHT", "CLIENT_IN_FLIGHT", "OVERLOADED_WAIT", "DEADLINE_RAN"}
#: Not on the data listener, or only where the server itself is at fault.
ELSEWHERE = {"CHANGE_UNSIGNED", "FAULT"}
TABLE = {name: text for name, text in vars(texts).items() if isinstance(text, Text)}


@pytest.mark.parametrize("name", [name for name, text in TABLE.items() if text.reason is not None])
def test_status_is_that_of_the_reason(name: str) -> None:
    text = TABLE[name]
    assert text.error(**dict.fromkeys(_facts(text), "x")).code.name == STATUS[str(text.reason)]


def test_every_text_is_met() -> None:
    met = {id(text) for case in CASES for text in case.expected.table}
    assert {name for name, text in TABLE.items() if id(text) not in met} == OVER_TIME | ELSEWHERE


def test_cases_have_names_of_their_own() -> None:
    names = [(case.served.name, str(case)) for case in CASES]
    assert len(set(names)) == len(names)


def test_servers_have_names_of_their_own() -> None:
    served: dict[str, Case] = {}
    for case in CASES:
        assert served.setdefault(case.served.name, case).served == case.served


def _facts(text: Text) -> list[str]:
    return [part.partition("}")[0] for part in text.template.split("{")[1:]]
