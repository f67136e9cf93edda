"""Drift and outcomes of a model of 1999 to 2006 on 2007 to 2009: writes docs/studies/sp500-drift.md and its picture.

Every row is asked for through a real server; what is judged is what a real sidecar logged.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.studies.sp500_picture import draw
from benchmarks.studies.sp500_serving import MODEL, serve_and_log
from benchmarks.studies.sp500_stream import FAULT_FROM, SCENARIOS, STALE_SESSIONS, make_stream, publish_model
from benchmarks.studies.sp500_text import INTRODUCTION, LEGEND, READING
from mlops.drift import Decision, DriftMonitor, DriftSpec, WindowResult, default_spec
from mlops.outcomes import Lengths, OutcomeFigure
from mlops.outcomes.monitor import OutcomeMonitor
from mlops.package import Package, read_package
from mlops.prediction_log import Batch
from mlops.prediction_log.outcomes import read_outcomes

STUDIES = Path(__file__).resolve().parents[2] / "docs" / "studies"
#: What is often said to be a significant PSI, whatever the sample.
RULE_OF_THUMB = 0.25
SHORT = 60
FIGURES = ("rank_ic", "ic", "sharpe", "sharpe_mertens", "max_drawdown", "accuracy", "auc", "brier")


@dataclass(frozen=True)
class Found:
    """What one stream showed."""

    scenario: str
    records: int
    flagged: int
    windows: list[WindowResult]
    short: list[WindowResult]
    #: Figures of all three years, then of the 60 sessions up to each quarter's end.
    outcomes: dict[str, OutcomeFigure]
    rolling: list[OutcomeFigure]


def judge(batches: list[Batch], package: Package, spec: DriftSpec) -> list[WindowResult]:
    """The windows of a log; one that the stream's end cut short is left out."""
    assert package.baseline is not None
    monitor = DriftMonitor(package.manifest, package.baseline, spec)
    return [result for batch in batches for result in monitor.add(batch)]


def observe(log: Path, batches: list[Batch], package: Package) -> tuple[dict[str, OutcomeFigure], list[OutcomeFigure]]:
    """The figures of all sessions, and the rolling IC of ranks as it stood after every 60, from what was reported."""
    known = sorted(read_outcomes(log), key=lambda outcome: outcome.event_time_ns)
    monitor = OutcomeMonitor(lambda *_: package, lengths=Lengths(window=len(known), rolling=(SHORT,)))
    for batch in batches:
        monitor.add(batch)
    rolling: list[OutcomeFigure] = []
    now: dict[str, OutcomeFigure] = {}
    for start in range(0, len(known), SHORT):
        monitor.add_outcomes(known[start : start + SHORT])
        now = {figure.figure: figure for figure in monitor.figures(MODEL, "1")}
        rolling.append(now[f"rank_ic_{SHORT}"])
    return now, rolling


def run(scenario: str, base: Path, package: Package, spec: DriftSpec, short: DriftSpec) -> Found:
    """One stream, through server and sidecar."""
    home = base / scenario.replace(" ", "-")
    shutil.copytree(base / "models", home / "models")
    stream = make_stream(scenario)
    batches = serve_and_log(home, stream)
    outcomes, rolling = observe(home / "log", batches, package)
    return Found(
        scenario,
        sum(map(len, batches)),
        sum(len(batch.findings) for batch in batches),
        judge(batches, package, spec),
        judge(batches, package, short),
        outcomes,
        rolling,
    )


def columns_of(results: list[WindowResult]) -> list[str]:
    """Columns in the order of the package; of the two complementary probabilities the second."""
    return [each.column for each in results[0].decisions if each.column != "probabilities[0]"]


def day(unix_ns: int) -> str:
    """A date."""
    return str(np.datetime64(unix_ns, "ns").astype("datetime64[D]"))


def cell(decision: Decision) -> str:
    """PSI with its state where that is not `ok`."""
    if decision.value is None:
        return decision.state
    mark = {"ok": "", "insufficient": " (i)", "warning": " **warning**", "critical": " **critical**"}[decision.state]
    return f"{decision.value:.2f}{mark}"


def windows_table(found: Found) -> Iterator[str]:
    """One line a column, one column a window."""
    spans = [f"{day(each.first_ns)} to {day(each.last_ns)}" for each in found.windows]
    yield "| column | warns above | " + " | ".join(spans) + " |"
    yield "|---|---|" + "---|" * len(spans)
    for column in columns_of(found.windows):
        decisions = [next(d for d in each.decisions if d.column == column) for each in found.windows]
        yield f"| {column} | {decisions[0].warning:.2f} | " + " | ".join(map(cell, decisions)) + " |"


def summary_table(every: list[Found]) -> Iterator[str]:
    """What each way of looking raised."""
    yield (
        f"| stream | decisions at 250 rows: alarms | `insufficient` | PSI above {RULE_OF_THUMB} whatever the null | "
        f"decisions at {SHORT} rows: alarms | `insufficient` | rows flagged by the package's bounds |"
    )
    yield "|---|---|---|---|---|---|---|"
    for found in every:
        cells = []
        for results in (found.windows, found.short):
            decisions = [d for each in results for d in each.decisions]
            alarms = sum(d.state in ("warning", "critical") for d in decisions)
            unsure = sum(d.state == "insufficient" for d in decisions)
            thumb = sum(d.value is not None and d.value > RULE_OF_THUMB for d in decisions)
            cells.append((f"{alarms} of {len(decisions)}", f"{unsure}", f"{thumb} of {len(decisions)}"))
        (alarms_, unsure_, thumb_), (short_alarms, short_unsure, _) = cells
        flagged = f"{found.flagged} of {found.records}"
        yield f"| {found.scenario} | {alarms_} | {unsure_} | {thumb_} | {short_alarms} | {short_unsure} | {flagged} |"


def outcomes_table(every: list[Found], package: Package) -> Iterator[str]:
    """Live figures with intervals beside what the package claims of 2005 and 2006."""
    claimed = package.manifest.metrics["test"] | {}
    names = {"rank_ic": "ic", "sharpe": "sharpe"}
    yield "| figure | package, 2005 to 2006 | " + " | ".join(found.scenario for found in every) + " |"
    yield "|---|---|" + "---|" * len(every)
    for name in FIGURES:
        metric = claimed.get(names.get(name, name))
        shown = "" if metric is None else f"{metric.value:.3f} ± {metric.standard_error or 0:.3f}"
        yield f"| {name} | {shown} | " + " | ".join(interval(found.outcomes[name]) for found in every) + " |"


def interval(figure: OutcomeFigure) -> str:
    """A value with its 95% interval."""
    if figure.value is None:
        return "undefined"
    if figure.lower is None or figure.upper is None:
        return f"{figure.value:.3f} (no interval)"
    return f"{figure.value:.3f} ({figure.lower:.3f} to {figure.upper:.3f})"


def alarms(found: Found) -> Iterator[str]:
    """A sentence for each alarm at 250 rows, with where it is said to have begun."""
    for result in found.windows:
        for decision in result.decisions:
            if decision.state in ("warning", "critical") and decision.column != "probabilities[0]":
                onsets = [each for each in result.onsets if each.column == decision.column]
                began = f", begun about {day(onsets[0].time_ns)}" if onsets else ""
                yield (
                    f"- {found.scenario}: `{decision.column}` {decision.state} on {day(result.last_ns)}, "
                    f"PSI {decision.value:.2f}, p {decision.p:.2g}{began}."
                )


def report(every: list[Found], package: Package, minutes: float) -> Iterator[str]:
    """The report's lines."""
    train = package.manifest.datasets["train"]
    yield "# A model of 1999 to 2006 on the S&P 500 of 2007 to 2009\n"
    yield INTRODUCTION.format(
        minutes=minutes, first=train.first, last=train.last, rows=train.rows, fault=FAULT_FROM, stale=STALE_SESSIONS
    )
    yield "## What alarmed\n"
    yield from summary_table(every)
    yield ""
    yield from [line for found in every for line in alarms(found)] or ["No column alarmed in any stream at 250 rows."]
    yield f"\n{LEGEND.rstrip()}"
    for found in every:
        yield f"\n### {found.scenario[0].upper()}{found.scenario[1:]}\n"
        yield from windows_table(found)
    yield "\n## What came of it\n"
    yield from outcomes_table(every, package)
    sessions = every[0].outcomes["rank_ic"].n
    yield f"\nOver {sessions} sessions, 95% intervals (docs/outcomes.md). The package's Sharpe ratio is of trading the"
    yield "sign, the live one of trading the signal; its `ic` is of ranks."
    yield f"\n{READING.rstrip()}"


def main() -> None:
    """Runs the streams and writes the report."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        base = Path(folder)
        package = read_package(publish_model(base / "models"))
        assert package.baseline is not None
        spec = default_spec(package.manifest, package.baseline)
        short = default_spec(package.manifest, package.baseline, rows=SHORT)
        every = [run(scenario, base, package, spec, short) for scenario in SCENARIOS]
        lines = list(report(every, package, (time.monotonic() - begun) / 60))
    STUDIES.mkdir(parents=True, exist_ok=True)
    draw(
        {found.scenario: found.windows for found in every},
        {found.scenario: found.rolling for found in every},
        columns_of(every[0].windows),
        STUDIES / "sp500-drift.svg",
    )
    (STUDIES / "sp500-drift.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
