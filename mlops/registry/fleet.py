"""What each server says of itself, a few seconds old at most, and who is not yet where desired state is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta

from pydantic import TypeAdapter
from sqlalchemy import Connection, delete, insert, select

from mlops.registry.columns import check_row
from mlops.registry.schema import server_status
from mlops.registry.values import Desired

#: A server that has said nothing for this long is taken for gone.
SILENT_AFTER = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model at one server: the split as versions with their weights, the revision that it obeys, and why not more.

    `state` is loading, serving, halted or failed. `why` is empty where it serves what is desired.
    """

    state: str
    split: Mapping[str, int]
    revision: int
    is_behind: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class ServerReport:
    """One server in its own words, as of `at` by the database's clock."""

    server: str
    at: datetime
    state: str
    engine: str
    listen: tuple[str, ...] = ()
    revision: int = 0
    models: Mapping[str, ServedModel] = field(default_factory=dict)

    def is_silent(self, now: datetime) -> bool:
        """Whether it has said nothing for too long."""
        return now - self.at > SILENT_AFTER


_REPORT = TypeAdapter(ServerReport)


@dataclass(frozen=True, slots=True)
class Lag:
    """One server that does not serve what is desired of a model, and why."""

    server: str
    model: str
    why: str


def write_report(connection: Connection, report: ServerReport) -> None:
    """Replaces what the server said before. Not audited: `servers.report` keeps what it did."""
    plain = asdict(report) | {"listen": list(report.listen)}
    status = {name: plain[name] for name in plain if name != "at"}
    row = {"server": report.server, "at": report.at, "status": status}
    check_row(server_status, row)
    connection.execute(delete(server_status).where(server_status.c.server == report.server))
    connection.execute(insert(server_status).values(row))


def read_reports(connection: Connection, now: datetime) -> list[ServerReport]:
    """What every server said last, by name. One that has said nothing for too long and did not stop is `silent`."""
    rows = connection.execute(select(server_status).order_by(server_status.c.server))
    reports = [_REPORT.validate_python({**row.status, "at": row.at}) for row in rows]
    return [
        replace(report, state="silent") if report.state != "stopped" and report.is_silent(now) else report
        for report in reports
    ]


def lags(reports: Sequence[ServerReport], desired: Desired) -> Iterator[Lag]:
    """Who of those that speak does not serve what is desired of a model."""
    model, wanted = desired.model, {str(share.version): share.weight_bp for share in desired.state.split}
    for report in reports:
        if report.state in ("silent", "stopped"):
            continue
        served = report.models.get(model)
        if served is None:
            yield Lag(report.server, model, "does not serve the model yet")
        elif served.revision < desired.revision:
            yield Lag(report.server, model, served.why or f"has not read revision {desired.revision} yet")
        elif served.is_behind or dict(served.split) != wanted:
            yield Lag(report.server, model, served.why or "is on its way")
