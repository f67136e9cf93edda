"""Reading the sums of all sidecars. A row that is not as it was written is an error that names it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, and_, false, not_, or_, select

from mlops.registry.schema import reporters, window_counts, window_outputs
from mlops.rollout.sums.body import Arrays, unpack
from mlops.rollout.sums.values import CountedOutputs, CountedWindow, Reporter, side_of
from tickserve.errors import RegistryError

#: Numpy array of a state that says: this life is over.
ENDED = "ended"
_Found = TypeVar("_Found")


def read_windows(connection: Connection, model: str, start_ns: int) -> tuple[CountedWindow, ...]:
    """The windows that began at a time or later, of whatever length.

    By start, reporter, boot, version, role. A window is whole once every reporter says that it is complete to its end.

    Raises
    ------
    RegistryError
        Naming a row that is damaged.
    """
    return _windows(connection, model, window_counts.c.start_ns >= start_ns)


def read_late(
    connection: Connection, model: str, since_ns: int, before_ns: int, taken_to: Mapping[tuple[str, str], int]
) -> tuple[CountedWindow, ...]:
    """The windows that ended after `since_ns`, began before `before_ns`, and were not taken: ordered as `read_windows`.

    Parameters
    ----------
    taken_to : mapping
        By reporter and boot, the end of the last window that was taken.

    Raises
    ------
    RegistryError
        Naming a row that is damaged.
    """
    columns = window_counts.c
    taken = [
        and_(columns.reporter == reporter, columns.boot == boot, columns.start_ns < end_ns)
        for (reporter, boot), end_ns in taken_to.items()
    ]
    between = and_(columns.start_ns < before_ns, columns.start_ns + columns.window_ns > since_ns)
    return _windows(connection, model, and_(between, not_(or_(false(), *taken))))


def _windows(connection: Connection, model: str, which: ColumnElement[bool]) -> tuple[CountedWindow, ...]:
    columns = window_counts.c
    found = connection.execute(
        select(window_counts)
        .where(columns.model == model, which)
        .order_by(columns.start_ns, columns.reporter, columns.boot, columns.version, columns.role, columns.edge_ns)
    )
    return tuple(
        CountedWindow(
            row.reporter,
            row.boot,
            row.version,
            row.role,
            row.edge_ns,
            row.start_ns,
            row.window_ns,
            row.share_bp,
            decoded("window_counts", row, row.body, side_of),
        )
        for row in found
    )


def read_outputs(connection: Connection, model: str, start_ns: int, end_ns: int) -> tuple[CountedOutputs, ...]:
    """The windows of outputs that lie whole in [start, end), ordered as `read_windows`. Raises RegistryError."""
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

    return tuple(decoded("window_outputs", row, row.body, outputs(row)) for row in found)


def read_reporters(connection: Connection, model: str) -> tuple[Reporter, ...]:
    """How far everybody is who has ever counted a model, by reporter and boot. Raises RegistryError."""
    columns = reporters.c
    found = connection.execute(select(reporters).where(columns.model == model).order_by(columns.reporter, columns.boot))
    return tuple(
        Reporter(
            row.reporter,
            row.server,
            row.boot,
            row.complete_to_ns,
            row.outputs_to_ns,
            row.window_ns,
            row.dropped,
            row.at,
            ENDED in decoded("reporters", row, row.state, lambda arrays: arrays),
        )
        for row in found
    )


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
