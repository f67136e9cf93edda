"""A day's report says what the log, the windows and the outcomes hold up to its end, and says it again alike."""

import json
import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlops.alerts.history import History, row_of
from mlops.alerts.state import Intent
from mlops.drift import DriftMonitor, DriftSpec
from mlops.drift.table import WindowTable
from mlops.package import Baseline, Manifest, ReferenceRows, make_baseline
from mlops.prediction_log import parquet
from mlops.prediction_log.outcomes import OutcomeStore, ReportedOutcome
from mlops.prediction_log.reading import PARQUET
from mlops.report import Sources, daily_report, render
from tests.support.outcomes import DAY_NS, MODEL, START_NS, declaration, make_batch
from tickserve.cli import app
from tickserve.errors import DamagedLogError

DAYS = 60
FIRST = date(2021, 1, 4)
NAMES = ("<script>alert(1)</script>", "$\\frac")


def baseline_of(manifest: Manifest) -> Baseline:
    generator = np.random.default_rng(5)
    times = START_NS - DAY_NS * np.arange(400, 0, -1)
    up = generator.uniform(0.05, 0.95, 400).astype(np.float32)
    return make_baseline(
        manifest.inputs,
        manifest.outputs,
        ReferenceRows("train", {"features": generator.uniform(-1, 1, (400, 2)).astype(np.float32)}, times),
        ReferenceRows("test", {"probabilities": np.stack([1 - up, up], axis=1)}, times),
        feature_names=manifest.feature_names,
    )


@pytest.fixture
def manifest() -> Manifest:
    return declaration(feature_names=NAMES)


@pytest.fixture
def sources(tmp_path: Path, manifest: Manifest) -> Sources:
    """Sixty days of one name, their outcomes, and the drift windows of them."""
    generator = np.random.default_rng(3)
    up = generator.uniform(0.1, 0.9, DAYS)
    batch = make_batch([[p] for p in up], status=[0] * (DAYS - 1) + [9])
    log = tmp_path / "log"
    parquet.write(log / PARQUET, [batch])
    package: Any = SimpleNamespace(manifest=manifest, baseline=baseline_of(manifest), digest=batch.digest)
    store = OutcomeStore(log, now_ns=lambda: 1000)
    store.add(
        [
            ReportedOutcome(f"o{day}", "", 0, MODEL, "SPX", START_NS + DAY_NS * day, "1d", float(value), 1)
            for day, value in enumerate(0.01 * generator.standard_t(4, DAYS))
        ]
    )
    store.close()
    # The windows are of this manifest, whose digest is not the one that the batch says.
    monitor = DriftMonitor(manifest, package.baseline, DriftSpec(rows=25))
    monitor.digest = batch.digest
    WindowTable(log / "tables" / "drift").append(monitor.add(batch))
    return Sources(log, log / "tables" / "drift", lambda *_: package)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def test_a_day_is_reported_up_to_its_end(sources: Sources, manifest: Manifest) -> None:
    report = daily_report(sources, day(40))
    [version] = report.versions
    assert (version.traffic.records, version.traffic.refused, report.records, report.missed) == (1, 0, 1, 0)
    [horizon] = version.horizons
    assert horizon.joined == 41, "what came later is not there"
    by_name = {figure.figure: figure for figure in horizon.figures}
    assert by_name["ic"].end_ns == START_NS + DAY_NS * 40
    assert sum(horizon.labels.values()) == 41
    assert len(version.windows) == 1
    assert version.closed == ()
    assert len(daily_report(sources, day(24)).versions[0].closed) == 1, "the window ended on its 25th day"


def test_figures_are_those_of_the_joined_rows(sources: Sources, manifest: Manifest) -> None:
    [version] = daily_report(sources, day(DAYS - 1)).versions
    [horizon] = version.horizons
    assert version.traffic.refused == 1
    assert horizon.joined == DAYS - 1, "a refusal is no prediction"
    value = np.array([figure.value for figure in horizon.figures if figure.figure == "rank_ic"])
    momentum = next(each for each in horizon.features if each.feature == NAMES[0])
    # The first feature is the probability itself, so that it ranks as the signal does.
    assert momentum.ic == pytest.approx(value[0])
    assert momentum.n == DAYS - 1
    assert len(horizon.capital) == DAYS - 1


def test_rolling_lines_end_where_the_figures_stand(sources: Sources) -> None:
    from mlops.outcomes import Lengths

    [version] = daily_report(sources, day(50), lengths=Lengths(window=40, rolling=(20,))).versions
    [horizon] = version.horizons
    figures = {figure.figure: figure for figure in horizon.figures}
    last = horizon.rolling_ic[-1]
    assert (last.value, last.lower, last.upper) == (
        figures["rank_ic_20"].value,
        figures["rank_ic_20"].lower,
        figures["rank_ic_20"].upper,
    )
    assert horizon.rolling_sharpe[-1].value == pytest.approx(figures["sharpe_20"].value)
    assert len(horizon.rolling_ic) == 21


def test_distributions_add_days_until_there_are_enough(sources: Sources) -> None:
    [version] = daily_report(sources, day(30)).versions
    assert {each.column for each in version.distributions} == {*NAMES, "probabilities[0]", "probabilities[1]"}
    assert {each.rows for each in version.distributions} == {31}
    assert version.distributed_from_ns // DAY_NS == START_NS // DAY_NS
    for each in version.distributions:
        assert sum(each.seen) == pytest.approx(1)
        assert sum(each.reference) == pytest.approx(1)
        assert len(each.labels) == len(each.seen)


def test_a_past_day_is_reported_alike_bit_for_bit_whatever_came_since(sources: Sources) -> None:
    first = daily_report(sources, day(40))
    assert first.known_at_ns == 1000
    store = OutcomeStore(sources.log, now_ns=lambda: 2000)
    store.add([ReportedOutcome("correction", "", 0, MODEL, "SPX", START_NS, "1d", 0.5, 2)])
    store.close()
    again = daily_report(sources, day(40), known_at_ns=1000)
    assert again == first
    assert render(again) == render(first)
    corrected = daily_report(sources, day(40))
    assert corrected.versions[0].horizons[0].figures != first.versions[0].horizons[0].figures
    assert corrected.known_at_ns == 2000


def test_what_alert_rows_did_on_the_day_is_told(sources: Sources, tmp_path: Path) -> None:
    history = History(tmp_path / "alerts" / MODEL / "history.jsonl")
    (tmp_path / "alerts" / MODEL).mkdir(parents=True)
    for number, moment in enumerate(("39T23:59:59", "40T00:00:00", "40T23:59:59", "41T00:00:00")):
        found, clock = moment.split("T")
        done_at = f"{day(int(found))}T{clock}+00:00"
        intent = Intent(f"i{number}", "halt", "ic@1d", "critical", "raised", "1", "w", 0.0, "<b>ic</b>", done_at)
        history.append(row_of(MODEL, intent, "done", "", done_at))
    told = replace(sources, alerts=tmp_path / "alerts")
    report = daily_report(told, day(40))
    assert [each.id for each in report.alerts] == ["i1", "i2"]
    page = render(report)
    assert page.count("<td>&lt;b&gt;ic&lt;/b&gt;</td>") == 2
    assert [each["action"] for each in report.as_dict()["alerts"]] == ["halt", "halt"]
    assert daily_report(told, day(40), model="another").alerts == ()
    assert "What alert rows did" not in render(daily_report(told, day(38)))


def test_the_page_needs_nothing_else_and_escapes_names(sources: Sources) -> None:
    page = render(daily_report(sources, day(45)))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert NAMES[1] in page
    assert page.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#)(?!http://www\.w3\.org)', page)
    assert not re.search(r"@import|url\((?!#)", page)


def test_a_day_without_records_says_so(sources: Sources) -> None:
    report = daily_report(sources, day(DAYS + 30))
    assert report.records == 0
    assert "no record on this day" in report.versions[0].notes[0]
    assert render(report)
    before = daily_report(sources, day(-30))
    assert before.versions == ()
    assert "no record up to the end" in render(before)


def test_without_its_package_a_version_has_traffic_alone(sources: Sources) -> None:
    blind = Sources(sources.log, sources.windows, lambda *_: None)
    [version] = daily_report(blind, day(40)).versions
    assert version.traffic.records == 1
    assert version.horizons == ()
    assert "was not found" in version.notes[0]
    assert "was not found" in render(daily_report(blind, day(40)))


def test_numbers_that_the_log_lacks_are_drops(tmp_path: Path) -> None:
    batch = make_batch([[0.5]] * 10, event_time_ns=[START_NS + place for place in range(10)])
    log = tmp_path / "log"
    parquet.write(log / PARQUET, [batch.take(np.arange(10) != 4)])
    report = daily_report(Sources(log, log / "tables", lambda *_: None), FIRST)
    assert (report.records, report.missed) == (9, 1)


def test_a_damaged_log_is_no_empty_one(sources: Sources) -> None:
    path = min(sources.log.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedLogError):
        daily_report(sources, day(40))


def test_the_command_writes_page_and_json(sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    options = ["--date", str(day(40)), "--log", str(sources.log), "--home", str(tmp_path), "--out", str(out)]
    done = CliRunner().invoke(app, ["drift", "report", *options, "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts == json.loads(out.with_suffix(".json").read_text())
    assert facts["versions"][0]["traffic"]["records"] == 1
    assert "was not found" in facts["versions"][0]["notes"][0], "the package is nowhere in this home"
    assert out.read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in out.parent.iterdir()) == ["page.html", "page.json"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--date", "2021-02-30"], "does not match"),
        (["--date", "2021-02-01", "--known-at", "yesterday"], "is no moment"),
        (["--date", "2021-02-01", "--known-at", "2021-02-01T00:00:00"], "is no moment"),
        (["--date", "2021-02-01", "--log", "/nowhere/at/all"], "no prediction log"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: list[str], says: str) -> None:
    (tmp_path / "log").mkdir()
    done = CliRunner().invoke(app, ["drift", "report", "--home", str(tmp_path), *options])
    assert done.exit_code != 0
    assert says in f"{done.output}{done.exception}"


def test_show_prints_windows_and_figures(sources: Sources, tmp_path: Path, manifest: Manifest) -> None:
    from mlops.outcomes.table import write_latest

    horizon = daily_report(sources, day(40)).versions[0].horizons[0]
    write_latest(sources.log / "tables", horizon.figures)
    options = ["drift", "show", "--log", str(sources.log), "--home", str(tmp_path)]
    done = CliRunner().invoke(app, options, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "probabilities[1]" in done.stdout
    assert NAMES[0] in done.stdout
    assert "sharpe_mertens" in done.stdout
    facts = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert len(facts["windows"]) == 1
    assert len(facts["figures"]) == len(horizon.figures)
    other = CliRunner().invoke(app, [*options, "--model", "another"])
    assert "no window has closed" in other.stdout
    (sources.log / "tables" / "outcomes.json").write_text("{")
    assert CliRunner().invoke(app, options).exit_code != 0
