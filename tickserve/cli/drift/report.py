"""`tickserve drift report`: what one day looked like, as an HTML page and JSON."""

import json
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickserve.cli.drift.log import Artifacts, Home, Json, Log, Model, Models, Registry, sources
from tickserve.errors import ConfigurationError

if TYPE_CHECKING:
    from mlops.report import DailyReport


def report(
    day: Annotated[
        datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="Day in UTC, by the event time of requests.")
    ],
    model: Model = None,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="The HTML page; JSON goes beside it. By default reports/DATE.html in the log.",
            show_default=False,
        ),
    ] = None,
    known_at: Annotated[
        str | None,
        typer.Option(
            help="Takes outcomes as they were known then: ISO 8601 with a time zone, or Unix nanoseconds.",
            show_default=False,
        ),
    ] = None,
    home: Home = None,
    log: Log = None,
    models: Models = None,
    registry: Registry = None,
    artifacts: Artifacts = None,
    as_json: Json = False,
) -> None:
    """Write the report of a day from the prediction log, the drift table and the outcomes.

    A past day gives the same figures again, as long as the log still has it.
    """
    from mlops.report import daily_report, render

    read_from = sources(home=home, log=log, models=models, registry=registry, artifacts=artifacts)
    found = daily_report(read_from, day.date(), model=model, known_at_ns=_moment(known_at))
    page = out or read_from.log / "reports" / f"{day.date().isoformat()}.html"
    text = json.dumps(found.as_dict(), allow_nan=False, indent=None if as_json else 1)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        _write(page, render(found))
        _write(page.with_suffix(".json"), text)
    except OSError as error:
        raise ConfigurationError(
            f"{page} cannot be written: {error.strerror}; name a file with --out", field="out"
        ) from None
    if as_json:
        typer.echo(text)
        return
    typer.echo(f"{page}\n{page.with_suffix('.json')}")
    _say(found, day.date(), read_from.log)


def _say(found: "DailyReport", day: date, log: Path) -> None:
    typer.echo(f"{found.records} records on {day}, {found.missed} dropped before the log, {found.outcomes} outcomes")
    if not found.records:
        typer.echo(f"the log in {log} has no record of that day", err=True)


def _write(path: Path, text: str) -> None:
    """Whole or not at all: who opens it meanwhile sees the one before."""
    staged = path.with_name(f".{path.name}.new")
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(
            f"--known-at {text!r} is no moment: give one such as 2026-01-31T21:00:00Z, or Unix nanoseconds",
            field="known_at",
        )
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
