"""What a row may hold: the one check of every value that is written, so that both back ends keep it as it is logged."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import rfc8785
from sqlalchemy import Column, Double, Integer, Table

from mlops.package.manifest import MAX_INTEGER
from mlops.registry.schema import CanonicalJson, UtcTime, time_text
from tickserve.errors import RegistryArgumentError

#: Characters of one text.
MAX_TEXT = 10_000
#: Bytes of one structured value as JSON; a manifest, the largest there is, is bounded by the same.
MAX_JSON_BYTES = 4 << 20


def check_text(name: str, text: str) -> str:
    """Returns `text`, or raises RegistryArgumentError where a database could not hold it."""
    if not isinstance(text, str):
        raise RegistryArgumentError(f"{name} is {text!r}; text is expected", field=name)
    if "\0" in text or len(text) > MAX_TEXT or text.encode(errors="replace").decode() != text:
        raise RegistryArgumentError(
            f"{name} must be at most {MAX_TEXT} characters of valid text without NUL", field=name
        )
    return text


def check_row(table: Table, values: Mapping[str, Any]) -> None:
    """Raises RegistryArgumentError where a value is none of its column's, and names the column.

    SQLite would keep almost anything in any column, changed or not; what was logged and what is stored would differ.
    """
    for name, value in values.items():
        column = table.c[name]
        if value is not None:
            _check(column, value)
        elif not column.nullable:
            raise RegistryArgumentError(f"{name} is missing", field=name)


def _check(column: Column[Any], value: Any) -> None:
    match column.type:
        case UtcTime():
            if not isinstance(value, datetime):
                raise RegistryArgumentError(f"{column.name} is {value!r}; a time is expected", field=column.name)
            time_text(value)
        case CanonicalJson():
            _check_json(column.name, value)
        case Integer():
            if not isinstance(value, int) or isinstance(value, bool) or not -MAX_INTEGER <= value <= MAX_INTEGER:
                raise RegistryArgumentError(
                    f"{column.name} is {value!r}; a whole number within 2^53 is expected", field=column.name
                )
        case Double():
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise RegistryArgumentError(
                    f"{column.name} is {value!r}; a finite number is expected", field=column.name
                )
        case _:
            check_text(column.name, value)


def _check_json(name: str, value: Any) -> None:
    try:
        size_bytes = len(rfc8785.dumps(value))
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise RegistryArgumentError(f"{name} cannot be written as JSON: {error}", field=name) from None
    if size_bytes > MAX_JSON_BYTES:
        raise RegistryArgumentError(
            f"{name} is {size_bytes} bytes of JSON, at most {MAX_JSON_BYTES} are kept", field=name
        )
