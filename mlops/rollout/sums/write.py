"""Writing the sums of one sidecar: rows of windows and how far it is, all in one transaction of the caller's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from sqlalchemy import Connection, Table, and_, delete, insert, select, update

from mlops.registry.leases import database_now
from mlops.registry.schema import reporters, window_counts, window_outputs
from mlops.rollout.sums.body import Arrays, pack
from mlops.rollout.sums.read import ENDED, decoded
from mlops.rollout.sums.values import SILENT_AFTER, CountedOutputs, CountedWindow, side_arrays
from tickserve.errors import ExistsError

#: How long it is kept how far a sidecar was that writes no more: longer than any server is left without one.
_KEEP_REPORTERS = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sidecar is with one model at one boot; the fields are those of `Reporter`.

    `state` is what the next differences are taken from, `has_ended` that there will be no more.
    """

    boot: str
    model: str
    server: str
    complete_to_ns: int
    outputs_to_ns: int
    window_ns: int
    dropped: int
    state: Arrays
    has_ended: bool = False


def read_progress(connection: Connection, reporter: str) -> dict[tuple[str, str], Progress]:
    """How far a sidecar is, by boot and model. Raises RegistryError naming a row that is damaged."""
    found = {}
    for row in connection.execute(select(reporters).where(reporters.c.reporter == reporter)):
        state = decoded("reporters", row, row.state, lambda arrays: arrays)
        has_ended = ENDED in state
        found[row.boot, row.model] = Progress(
            row.boot,
            row.model,
            row.server,
            row.complete_to_ns,
            row.outputs_to_ns,
            row.window_ns,
            row.dropped,
            {} if has_ended else state,
            has_ended,
        )
    return found


def require_name(connection: Connection, reporter: str, writer: str) -> None:
    """Raises ExistsError where another sidecar has written under this name just now."""
    columns = reporters.c
    other = connection.execute(
        select(columns.server, columns.at)
        .where(columns.reporter == reporter, columns.writer != writer)
        .where(columns.at > database_now(connection) - SILENT_AFTER)
        .limit(1)
    ).first()
    if other is not None:
        raise ExistsError(
            f"another sidecar counts as {reporter!r} (of server {other.server!r}, at {other.at.isoformat()}); give "
            "each its own name with the setting `reporter`",
            field="reporter",
        )


def write_progress(connection: Connection, reporter: str, writer: str, progress: Progress) -> None:
    """Replaces how far a sidecar is with one model at one boot."""
    state = {ENDED: np.array(1)} if progress.has_ended else progress.state
    row = {
        "reporter": reporter,
        "boot": progress.boot,
        "model": progress.model,
        "server": progress.server,
        "writer": writer,
        "complete_to_ns": progress.complete_to_ns,
        "outputs_to_ns": progress.outputs_to_ns,
        "window_ns": progress.window_ns,
        "dropped": progress.dropped,
        "at": database_now(connection),
        "state": pack(state),
    }
    _replace(connection, reporters, row)


def write_windows(connection: Connection, model: str, windows: Iterable[CountedWindow]) -> None:
    """Writes rows of counts; those of one key are replaced, so that writing them again changes nothing."""
    for each in windows:
        row = {
            "reporter": each.reporter,
            "boot": each.boot,
            "model": model,
            "version": each.version,
            "role": each.role,
            "edge_ns": each.edge_ns,
            "start_ns": each.start_ns,
            "window_ns": each.window_ns,
            "share_bp": each.share_bp,
            "body": pack(side_arrays(each.counts)),
        }
        _replace(connection, window_counts, row)


def outputs_row(model: str, window: CountedOutputs) -> dict[str, Any]:
    """A row of outputs as the table has it."""
    return {
        "reporter": window.reporter,
        "boot": window.boot,
        "model": model,
        "version": window.version,
        "role": window.role,
        "start_ns": window.start_ns,
        "window_ns": window.window_ns,
        "body": pack(window.arrays()),
    }


def write_outputs(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows of outputs; those of one key are replaced by what is known of the same window now."""
    for row in rows:
        _replace(connection, window_outputs, row)


def touch(connection: Connection, reporter: str, boots: Iterable[str], outputs_to_ns: int, dropped: int) -> None:
    """Says that a sidecar is there, and how far it is with the outputs of these boots."""
    mine = and_(reporters.c.reporter == reporter, reporters.c.boot.in_(list(boots)))
    changes = {"outputs_to_ns": outputs_to_ns, "dropped": dropped, "at": database_now(connection)}
    connection.execute(update(reporters).where(mine).values(changes))


def forget(connection: Connection, before_ns: int) -> int:
    """Removes the windows of everybody that began before a time, and who wrote nothing for a month; how many rows."""
    removed = 0
    for model in connection.execute(select(reporters.c.model).distinct()).scalars().all():
        for table in (window_counts, window_outputs):
            old = delete(table).where(table.c.model == model, table.c.start_ns < before_ns)
            removed += connection.execute(old).rowcount
    silent = delete(reporters).where(reporters.c.at < database_now(connection) - _KEEP_REPORTERS)
    return removed + connection.execute(silent).rowcount


def _replace(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    key = and_(*(column == row[column.name] for column in table.primary_key))
    connection.execute(delete(table).where(key))
    connection.execute(insert(table).values(dict(row)))
