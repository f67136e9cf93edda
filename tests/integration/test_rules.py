"""The rules of deploy/: accepted by the programs that read them, tested one by one, and routed."""

import re
from pathlib import Path

import pytest

from tests.integration.programs import ROOT, call

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
RULES = sorted(PROMETHEUS.glob("*.rules.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.test.yml"))
#: One expectation of an alert in a test file, a line each.
_EXPECTED = re.compile(
    r"""expr: 'ALERTS{alertname="(\w+)",alertstate="firing"}', eval_time: \w+, exp_samples: \[(.*)\]}"""
)


def text_of(files: list[Path]) -> str:
    return "".join(file.read_text() for file in files)


def alerts() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", text_of(RULES), re.MULTILINE)


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_promtool_accepts_the_rules(file: Path) -> None:
    call("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(file))


def test_examples_of_configuration_are_accepted() -> None:
    call("promtool", "check", "config", str(PROMETHEUS / "prometheus.yml"))
    call("amtool", "check-config", str(ALERTMANAGER))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_rules_fire_and_are_resolved(file: Path) -> None:
    call("promtool", "test", "rules", str(file))


def test_every_alert_is_tested_quiet_firing_and_resolved() -> None:
    seen: dict[str, list[bool]] = {}
    for name, samples in _EXPECTED.findall(text_of(TESTS)):
        seen.setdefault(name, []).append(bool(samples))
    assert len(alerts()) == len(set(alerts())) > 30
    assert seen.pop("TickserveWatchdog") == [True, True]
    assert sorted(seen) == sorted(set(alerts()) - {"TickserveWatchdog"})
    assert {name: fires[:3] for name, fires in seen.items()} == {name: [False, True, False] for name in seen}


def test_every_recording_rule_is_tested() -> None:
    recorded = re.findall(r"^ +- record: (\S+)$", text_of(RULES), re.MULTILINE)
    tested = set(re.findall(r"""expr: ["'](?:round\()?(tickserve:\w+:\w+)""", text_of(TESTS)))
    assert tested == set(recorded)


def test_every_alert_has_a_severity_and_says_what_is_wrong() -> None:
    for part in re.split(r"^ +- alert: ", text_of(RULES), flags=re.MULTILINE)[1:]:
        assert re.search(r"labels: {severity: (critical|warning|info|none)}\n", part), part
        assert re.search(r"summary: .*\.\"?\n", part), part


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=TickserveWatchdog", "severity=none"], "dead-mans-switch"),
        (["alertname=TickserveDown", "severity=critical"], "on-call"),
        (["alertname=TickserveDrift", "severity=warning"], "desk"),
        (["alertname=TickserveHeld", "severity=info"], "desk"),
    ],
)
def test_alerts_are_routed_by_severity(labels: list[str], receiver: str) -> None:
    assert call("amtool", "config", "routes", "test", "--config.file", str(ALERTMANAGER), *labels).split() == [receiver]


def test_inhibited_alerts_exist() -> None:
    known = set(alerts())
    matchers = re.findall(r"""'alertname=~?"([^"]*)"'""", ALERTMANAGER.read_text())
    assert len(matchers) > 5
    for matcher in matchers:
        prefix, _, rest = matcher.partition("(")
        for name in rest.rstrip(")").split("|"):
            assert prefix + name in known, matcher
