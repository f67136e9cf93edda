"""Reading the sums of all sidecars. A row that is not as it was written is named, and no part of any sum."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, and_, case, literal, select

from mlops.registry.schema import reporters, window_counts, window_outputs
from mlops.rollout.counts import SideCounts
from mlops.rollout.sums.body import Arrays, unpack
from mlops.rollout.sums.values import MIXED_SHARE, CountedOutputs, CountedWindow, Reporter, side_of
from tickserve.errors import RegistryError

#: Numpy array of a state that says: this life is over.
ENDED = "ended"
_Found = TypeVar("_Found")
#: Takes what names a damaged row.
OnDamaged = Callable[[RegistryError], None]


def refuse(error: RegistryError) -> None:
    """Raises what names a damaged row."""
    raise error


def read_windows(
    connection: Connection, model: str, start_ns: int, on_damaged: OnDamaged = refuse
) -> tuple[CountedWindow, ...]:
    """The windows that began at a time or later, of whatever length.

    By start, reporter, boot, version, role. A window is whole once every reporter says that it is complete to its end.

    Parameters
    ----------
    on_damaged : callable
        Takes what names a row that is not as it was written. Where it returns, that window comes empty and of a mixed
        share, so that it is no evidence.
    """
    return _windows(connection, model, window_counts.c.start_ns >= start_ns, on_damaged)


def read_late(
    connection: Connection,
    model: str,
    since_ns: int,
    before_ns: int,
    reached: Mapping[str, int],
    on_damaged: OnDamaged,
) -> tuple[CountedWindow, ...]:
    """The windows that ended after `since_ns`, began before `before_ns`, and were not taken: ordered as `read_windows`.

    Parameters
    ----------
    reached : mapping
        By reporter, a blank and boot, the end of the last window that was taken.
    on_damaged : callable
        As of `read_windows`.
    """
    columns = window_counts.c
    # A server that begins anew again and again has many boots, and an OR of so many is more than SQLite reads.
    ends = {key: literal(end_ns, columns.start_ns.type) for key, end_ns in {"": 0, **reached}.items()}
    taken_ns = case(ends, value=columns.reporter + " " + columns.boot, else_=ends[""])
    between = and_(columns.start_ns < before_ns, columns.start_ns + columns.window_ns > since_ns)
    return _windows(connection, model, and_(between, columns.start_ns >= taken_ns), on_damaged)


def _windows(
    connection: Connection, model: str, which: ColumnElement[bool], on_damaged: OnDamaged
) -> tuple[CountedWindow, ...]:
    columns = window_counts.c
    found = connection.execute(
        select(window_counts)
        .where(columns.model == model, which)
        .order_by(columns.start_ns, columns.reporter, columns.boot, columns.version, columns.role, columns.edge_ns)
    )

    def window(row: Row[Any]) -> CountedWindow:
        share_bp = row.share_bp
        try:
            counts = decoded("window_counts", row, row.body, side_of)
        except RegistryError as error:
            on_damaged(error)
            counts, share_bp = SideCounts.empty(), MIXED_SHARE
        return CountedWindow(
            row.reporter, row.boot, row.version, row.role, row.edge_ns, row.start_ns, row.window_ns, share_bp, counts
        )

    return tuple(window(row) for row in found)


def read_outputs(
    connection: Connection, model: str, start_ns: int, end_ns: int, on_damaged: OnDamaged = refuse
) -> tuple[CountedOutputs, ...]:
    """The windows of outputs that lie whole in [start, end), ordered as `read_windows`; no damaged ones."""
    columns = window_outputs.c
    found = connection.execute(
        select(window_outputs)
        .where(columns.model == model, columns.start_ns >= start_ns)
        .where(columns.start_ns + columns.window_ns <= end_ns)
        .order_by(columns.start_ns, columns.reporter, columns.boot, columns.version, columns.role)
    )
    names = ("reporter", "boot", "version", "role", "start_ns", "window_ns")

    def outputs(row: Row[Any]) -> Callable[[Arrays], CountedOutputs]:
        return lambda arrays: CountedOutputs.of_arrays(arrays, {name: row._mapping[name] for name in names})

    windows = []
    for row in found:
        try:
            windows.append(decoded("window_outputs", row, row.body, outputs(row)))
        except RegistryError as error:
            on_damaged(error)
    return tuple(windows)


def read_reporters(connection: Connection, model: str, on_damaged: OnDamaged = refuse) -> tuple[Reporter, ...]:
    """How far everybody is who has ever counted a model, by reporter and boot; nobody whose row is damaged."""
    columns = reporters.c
    found = connection.execute(select(reporters).where(columns.model == model).order_by(columns.reporter, columns.boot))
    reported = []
    for row in found:
        try:
            has_ended = ENDED in decoded("reporters", row, row.state, lambda arrays: arrays)
        except RegistryError as error:
            on_damaged(error)
            continue
        reported.append(
            Reporter(
                row.reporter,
                row.server,
                row.boot,
                row.complete_to_ns,
                row.outputs_to_ns,
                row.window_ns,
                row.dropped,
                row.at,
                has_ended,
            )
        )
    return tuple(reported)


def decoded(table: str, row: Row[Any], body: bytes, read: Callable[[Arrays], _Found]) -> _Found:
    """What a row's bytes hold. Raises RegistryError naming the row."""
    try:
        return read(unpack(body))
    except ValueError as error:
        names = ("reporter", "boot", "model", "version", "role", "edge_ns", "start_ns")
        place = ", ".join(f"{name}={row._mapping[name]}" for name in names if name in row._mapping)
        raise RegistryError(
            f"the row of {table} with {place} {error}; delete it, which leaves its window out", field=table
        ) from None
