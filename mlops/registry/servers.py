"""What servers say that they did: installed and drained versions, and their end."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import Connection, select

from mlops.registry.columns import check_text
from mlops.registry.journal import Write
from mlops.registry.lookup import require_version
from mlops.registry.schema import server_events
from mlops.registry.values import Served
from tickserve.errors import RegistryArgumentError

ServerAct = Literal["installed", "drained", "stopped"]


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One thing that a server did, at a time of its own clock.

    `installed` in a role ends what the same version did in another role; `stopped` (no model) drains everything.
    """

    event: ServerAct
    at: datetime
    model: str = ""
    version: int | None = None
    role: str = ""
    digest: str = ""


def report(write: Write, server: str, events: Sequence[ServerEvent]) -> None:
    """Appends what a server did, in its order."""
    if not check_text("server", server):
        raise RegistryArgumentError("a report needs the server's identity", field="server")
    for place, event in enumerate(events):
        if event.event not in get_args(ServerAct):
            raise RegistryArgumentError(
                f"event {event.event!r} is none of {', '.join(get_args(ServerAct))}", field="event"
            )
        if event.event != "stopped":
            if event.version is None:
                raise RegistryArgumentError(f"a report of {event.event} needs a version", field="version")
            require_version(write.connection, event.model, event.version)
        write.insert(
            server_events,
            sequence=write.sequence,
            place=place,
            server=server,
            event=event.event,
            model=event.model,
            version=event.version,
            role=check_text("role", event.role),
            digest=check_text("digest", event.digest),
            at=event.at,
        )


def installed(connection: Connection, model: str | None = None, at: datetime | None = None) -> list[Served]:
    """What each server had installed at a time, now where none is given; by server, model and version.

    Events of one server count in the order of their own times, and of equal times in that of their reports.
    """
    query = select(server_events).order_by(server_events.c.at, server_events.c.sequence, server_events.c.place)
    if model is not None:
        query = query.where(server_events.c.model.in_([model, ""]))
    if at is not None:
        query = query.where(server_events.c.at <= at)
    found: dict[tuple[str, str, int], Served] = {}
    for row in connection.execute(query):
        if row.event == "stopped":
            found = {key: served for key, served in found.items() if served.server != row.server}
        elif row.event == "drained":
            found.pop((row.server, row.model, row.version), None)
        else:
            found[row.server, row.model, row.version] = Served(
                row.server, row.model, row.version, row.role, row.digest, row.at
            )
    return [found[key] for key in sorted(found)]
