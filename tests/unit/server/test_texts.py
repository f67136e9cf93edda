"""The table of texts: plain data that another engine can be held against, and the only place where texts are."""

import ast
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engine import texts
from server.engine.texts import Text
from tickserve.errors import BY_REASON, Code, PredictionError, Reason

ROOT = Path(__file__).resolve().parents[3]
TABLE = {name: text for name, text in vars(texts).items() if isinstance(text, Text)}
PLACES = sorted([*(ROOT / "server/engine").rglob("*.py"), *(ROOT / "server/api").rglob("*.py")])


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """Where a text is filled, its name, and the facts given."""
    for path in PLACES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Attribute(value=ast.Name(id="texts"), attr=name), attr="error" | "fill"
                    ),
                    keywords=keywords,
                ):
                    given = {keyword.arg for keyword in keywords} - {"at"}
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", name, {each or "**" for each in given}


def fields(text: Text) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(text.template) if name is not None]


def test_table_is_plain_data() -> None:
    table = json.loads(json.dumps(texts.table()))
    assert table.keys() == TABLE.keys()
    assert table["OUTPUT_RULE"] == {
        "code": "INTERNAL",
        "reason": "OUTPUT_RULE",
        "template": "output rule '{rule}' of version {version} of model '{model}' is broken; the value is withheld",
        "executed": True,
    }


@pytest.mark.parametrize("name", TABLE)
def test_templates_hold_named_fields_without_conversions(name: str) -> None:
    text = TABLE[name]
    parts = list(string.Formatter().parse(text.template))
    assert all(not spec and not conversion for _, field, spec, conversion in parts if field is not None)
    assert all(re.fullmatch(r"[a-z_]+", field) for field in fields(text))


@pytest.mark.parametrize("name", TABLE)
def test_a_reason_goes_with_its_status(name: str) -> None:
    text = TABLE[name]
    error = text.error(at="x", **dict.fromkeys(fields(text), "f"))
    assert (error.code, error.reason, error.executed) == (text.code, text.reason, text.executed)
    if text.reason is not None:
        assert isinstance(error, PredictionError)
        assert text.code is BY_REASON[text.reason].code


def test_every_reason_has_a_text() -> None:
    assert {text.reason for text in TABLE.values()} == {*Reason, None}


def test_texts_are_given_exactly_their_facts() -> None:
    found = list(calls())
    assert len(found) > 60
    for place, name, given in found:
        if "**" not in given:
            assert given == set(fields(TABLE[name])), place


def test_no_text_is_unused() -> None:
    used = {
        node.attr
        for path in PLACES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "texts"
    }
    assert set(TABLE) <= used


def test_errors_for_clients_are_made_of_the_table_alone() -> None:
    ours = {error.__name__ for error in BY_REASON.values()} | {"StatusError"}
    for path in PLACES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert path.name == "texts.py" or node.func.id not in ours, f"{path}:{node.lineno}"


def test_facts_are_written_plainly_and_bounded() -> None:
    assert texts.UNKNOWN_SERVICE.fill(service="a\nb\x1b[0m'c'") == "unknown service 'a?b?[0m'c''"
    shown = texts.OUT_OF_BOUNDS.fill(feature="f", row=1, value=1e16, minimum=-0.5, maximum=float("inf"))
    assert shown == "feature 'f', row 1 is 1e+16, outside its bounds -0.5 to inf"
    for name in ("x" * 5000, "\u20ac" * 2000):
        assert len(texts.UNKNOWN_SERVICE.fill(service=name).encode()) <= 1000
    assert texts.UNKNOWN_SERVICE.code is Code.NOT_FOUND
