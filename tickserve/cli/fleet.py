"""The servers of one registry: who serves what, and who is not yet where desired state is."""

import time
from typing import TYPE_CHECKING, Any

from tickserve.cli.models.options import opened, plain, print_json, print_table

if TYPE_CHECKING:
    from mlops.registry import Desired, Registry
    from mlops.registry.fleet import Lag, ServerReport

_POLL_S = 0.1


def wait_for_servers(registry: "Registry", desired: "Desired", within_s: float) -> "list[Lag]":
    """Returns when every server that reports serves what is desired, or after so many seconds who does not and why."""
    end = time.monotonic() + within_s
    while True:
        lags = registry.lags(desired)
        if not lags or time.monotonic() >= end:
            return lags
        time.sleep(_POLL_S)


def show_fleet(registry_url: str, artifacts: str, as_json: bool) -> bool:
    """Prints what every server of a registry serves; returns whether all of them serve what is desired."""
    with opened(registry_url, artifacts) as registry:
        reports = registry.reports()
        wanted = registry.wanted().models
        lags = [lag for desired in wanted.values() for lag in registry.lags(desired)]
    why = {(lag.server, lag.model): lag.why for lag in lags}
    if as_json:
        print_json({"servers": [plain(report) for report in reports], "lagging": [plain(lag) for lag in lags]})
        return not lags
    print_table(
        ("server", "state", "engine", "heard, UTC", "model", "is", "serves", "desired", "lags"),
        [row for report in reports for row in _rows(report, wanted, why)],
    )
    return not lags


def _rows(report: "ServerReport", wanted: "dict[str, Desired] | Any", why: dict[tuple[str, str], str]) -> list[Any]:
    names = sorted({*report.models, *(wanted if report.state != "stopped" else ())}) or [""]
    rows = []
    for place, name in enumerate(names):
        server = (report.server, report.state, report.engine, f"{report.at:%m-%d %H:%M:%S}")
        served = report.models.get(name)
        desired = wanted.get(name)
        rows.append(
            (
                *(server if place == 0 else ("",) * 4),
                name,
                served.state if served else "",
                _split(served.split) if served else "",
                _split({str(share.version): share.weight_bp for share in desired.state.split}) if desired else "",
                why.get((report.server, name), ""),
            )
        )
    return rows


def _split(split: Any) -> str:
    return " ".join(
        version if weight == 10_000 else f"{version}:{weight / 100:g}%" for version, weight in split.items()
    )
