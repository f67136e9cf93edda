"""Every operation from the command line, with its exit code."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.packages import flip_byte
from tests.support.registry import Packages
from tickserve.cli import main

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program within this process: a process of its own takes a second or two to import what it needs."""
    for name in ("TICKSERVE_REGISTRY", "TICKSERVE_ARTIFACTS", "TICKSERVE_TRUSTED_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TICKSERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object, code: int = 0) -> Any:
        monkeypatch.setattr(sys, "argv", ["tickserve", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, f"{arguments}: exit {ended.value.code}\n{out}\n{err}"
        return json.loads(out) if "--json" in arguments and code == 0 else out + err

    return call


def test_a_version_goes_from_registered_to_live_and_back(run: Run, packages: Packages) -> None:
    assert run("models", "register", packages(1), "--label", "1.0.0", "--json")["version"] == 1
    assert run("models", "register", packages(2), "--json")["version"] == 2
    assert "approve it first" in run("models", "promote", "demo", "1", "--reason", "go", code=1)
    for version in ("1", "2"):
        run("models", "approve", "demo", version, "--reason", "fine", "--inconclusive")
        promoted = run("models", "promote", "demo", version, "--reason", "go", "--actor", "bob", "--json")
        assert promoted["desired"]["state"]["split"][0]["version"] == int(version)
        assert promoted["gates"]["verdict"] == "inconclusive"
    stale = run("models", "promote", "demo", "1", "--reason", "go", "--expected-revision", "1", code=1)
    assert "moved from revision 1 to 2" in stale
    assert run("models", "rollback", "demo", "--reason", "bad fills", "--json")["revision"] == 3
    assert run("desired", "show", "demo", "--json")["state"]["split"][0]["version"] == 1
    run("desired", "set", "demo", "--position-scale", "0.5", "--reason", "careful")
    history = run("models", "history", "demo", "--json")
    assert [change["action"] for change in history[:2]] == ["desired", "rollback"]
    assert {change["actor"] for change in history if change["action"] == "promote"} == {"bob"}


def test_the_live_version_is_compared_with_no_other(run: Run, packages: Packages) -> None:
    run("models", "register", packages(1))
    run("models", "approve", "demo", "1", "--reason", "fine", "--inconclusive")
    for _ in range(2):
        gates = run("models", "promote", "demo", "1", "--reason", "go", "--json")["gates"]["gates"]
        assert [gate["text"] for gate in gates if gate["name"] == "live"] == [
            "no other version is live: there is nothing to be compared with"
        ]


def test_halt_in_desired_state_is_made_and_ended(run: Run, packages: Packages) -> None:
    run("models", "register", packages(1))
    run("models", "approve", "demo", "1", "--reason", "fine", "--inconclusive")
    run("models", "promote", "demo", "1", "--reason", "go")
    state = run("desired", "set", "demo", "--halt", "--reason", "odd fills", "--actor", "ann", "--json")["state"]
    assert (state["halt"]["actor"], state["halt"]["reason"]) == ("ann", "odd fills")
    again = run("desired", "set", "demo", "--halt", "--reason", "again", "--actor", "bob", "--json")["state"]
    assert again["halt"]["actor"] == "ann"
    assert run("desired", "set", "demo", "--no-halt", "--reason", "fine", "--json")["state"]["halt"] is None


def test_desired_state_is_set_part_by_part(run: Run, packages: Packages) -> None:
    run("models", "register", packages(1))
    assert "no desired state yet" in run("desired", "show", "demo", code=2)
    run("models", "approve", "demo", "1", "--reason", "fine", "--inconclusive")
    run("models", "promote", "demo", "1", "--reason", "go")
    run("models", "register", packages(2))
    run("models", "approve", "demo", "2", "--reason", "fine", "--inconclusive")
    given = ("--position-scale", 0.5, "--fallback", 1, "--pin", "1=desk,risk", "--rule", "values_finite=flag")
    state = run("desired", "set", "demo", *given, "--reason", "careful", "--json")["state"]
    assert (state["position_scale"], state["fallback_version"]) == (0.5, 1)
    assert state["allowed_pins"] == [{"version": 1, "clients": ["desk", "risk"]}]
    assert state["rule_overrides"] == [{"rule": "values_finite", "policy": "flag", "minimum": None, "maximum": None}]
    kept = run("desired", "set", "demo", "--pin", "none", "--rule", "values_finite=", "--reason", "back", "--json")
    assert (kept["state"]["allowed_pins"], kept["state"]["rule_overrides"]) == ([], [])
    assert kept["state"]["position_scale"] == 0.5
    shadow = run("desired", "set", "demo", "--shadow", "2=2.5", "--reason", "watch", "--json")["state"]["shadow"]
    assert (shadow["version"], shadow["fraction_bp"], shadow["of"]) == (2, 250, None)
    assert len(shadow["salt"]) == 16
    grown = run("desired", "set", "demo", "--shadow", "2=100%", "--reason", "all", "--json")["state"]["shadow"]
    assert grown == shadow | {"fraction_bp": 10_000}, "the sample of a shadow that grows holds what it held"
    assert "shadow" in run("desired", "show", "demo")
    refused = run("desired", "set", "demo", "--shadow", "1=5", "--reason", "itself", code=1)
    assert "a shadow without copies" in refused
    gone = run("desired", "set", "demo", "--shadow", "none", "--reason", "enough", "--json")["state"]
    assert gone["shadow"] is None
    for wrong in ("1", "1=", "1=0", "1=101", "1=0.001", "x=5", "1=5:", "1=5:1", "1=5:x"):
        assert "VERSION=PERCENT" in run("desired", "set", "demo", "--shadow", wrong, "--reason", "r", code=2), wrong
    assert "RULE=POLICY" in run("desired", "set", "demo", "--rule", "x=maybe", "--reason", "r", code=2)
    assert "is validated" not in run("desired", "set", "demo", "--fallback", "9", "--reason", "r", code=2)


def test_figures_are_logged_compared_and_chosen_on(run: Run, packages: Packages) -> None:
    for value, sharpe in ((1, "1.0:0.1"), (2, "2.0:0.1")):
        run("models", "register", packages(value))
        run("models", "log-metrics", "demo", value, f"sharpe={sharpe}", "sortino=nan", "--dataset", "live", "--n", "50")
    assert run("models", "best", "sharpe", "--dataset", "live", "--json")["version"]["version"] == 2
    assert "no version has a defined sortino" in run("models", "best", "sortino", "--dataset", "live", code=2)
    assert "spoils it" in run("models", "best", "sharpe", "--dataset", "test", code=2)
    pairs = run("models", "compare", "demo", "1", "2", "--json")["metrics"]
    assert [(pair["name"], pair["better"]) for pair in pairs] == [("sharpe", "right"), ("sortino", "")]
    assert "demo 2" in run("models", "compare", "demo", "1", "2")
    assert "undefined" in run("models", "show", "demo", "1")


def test_names_are_found_listed_and_moved(run: Run, packages: Packages) -> None:
    for value in (1, 2, 3):
        run("models", "register", packages(value))
    run("models", "edit", "demo", "--strategy-type", "carry", "--universe", "SPX", "--tag", "desk=eq")
    [found] = run("models", "search", "--strategy-type", "carry", "--tag", "desk=eq", "--json")
    assert found["name"] == "demo"
    assert run("models", "search", "--tag", "desk=fx", "--json") == []
    assert [entry["version"] for entry in run("models", "list", "demo", "--limit", "2", "--json")] == [3, 2]
    assert [entry["version"] for entry in run("models", "list", "demo", "--before", "2", "--json")] == [1]
    run("models", "label", "demo", "1", "1.0.10")
    run("models", "label", "demo", "2", "1.0.9")
    assert [entry["label"] for entry in run("models", "list", "demo", "--by-label", "--json")] == ["1.0.9", "1.0.10"]
    for page, label in ((("--limit", "1"), "1.0.9"), (("--after", "1.0.9"), "1.0.10")):
        assert [entry["label"] for entry in run("models", "list", "demo", "--by-label", *page, "--json")] == [label]
    assert run("models", "alias", "demo", "champion", "2", "--json") == {"champion": 2}
    assert run("models", "show", "demo", "champion", "--json")["version"]["version"] == 2
    assert "used by alias 'champion'" in run("models", "delete", "demo", "2", "--yes", "--reason", "old", code=1)
    assert "or --remove" in run("models", "alias", "demo", "champion", code=2)
    assert run("models", "alias", "demo", "champion", "--remove", "--json") == {}
    assert run("models", "delete", "demo", "2", "--yes", "--reason", "old", "--json")["status"] == "deleted"
    assert run("models", "retire", "demo", "3", "--reason", "old", "--json")["status"] == "retired"


def test_the_past_is_told_and_needs_a_zone(run: Run, packages: Packages) -> None:
    run("models", "register", packages(1))
    run("models", "as-of", "demo", "2000-01-01T00:00:00Z", code=1)
    assert "has no time zone" in run("models", "as-of", "demo", "2000-01-01T00:00:00", code=2)
    run("models", "approve", "demo", "1", "--reason", "fine", "--inconclusive")
    run("models", "promote", "demo", "1", "--reason", "go")
    assert run("models", "as-of", "demo", "2999-01-01T00:00:00Z", "--json")["desired"]["revision"] == 1
    run("models", "as-of", "demo", "2999-01-01T00:00:00Z", "--actual", code=1)
    assert run("models", "watch", "--count", "1") == "revision 1\n"


def test_damage_is_found_and_garbage_removed(run: Run, packages: Packages, tmp_path: Path) -> None:
    run("models", "register", packages(1))
    head = run("models", "verify", "--json")["head"]
    assert run("models", "verify", "--expected-head", head).startswith("whole: ")
    folder = run("models", "export", "demo", "1", "--out", tmp_path / "out", "--json")["path"]
    assert "is validated" in run("models", "import", folder)
    run("models", "delete", "demo", "1", "--yes", "--reason", "old")
    assert "would go" in run("models", "gc", "--dry-run", "--grace-minutes", "0")
    assert len(run("models", "gc", "--grace-minutes", "0", "--json")["files"]) == 5
    run("models", "register", packages(2))
    stored = [path for path in (tmp_path / "home" / "registry" / "artifacts").rglob("*") if path.is_file()]
    flip_byte(stored[0])
    assert stored[0].name in run("models", "verify", code=1)


def test_signatures_can_be_required(run: Run, packages: Packages, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(packages(1), folder)
    run("keys", "new", "desk")
    run("models", "require-signature", "on", "--reason", "policy")
    assert "is not signed" in run("models", "register", folder, code=1)
    assert run("models", "register", folder, "--sign", "desk", "--json")["version"] == 1


def test_what_is_no_registry_is_neither_whole_nor_made_by_asking(run: Run, packages: Packages, tmp_path: Path) -> None:
    for ask in (("verify",), ("list",), ("show", "demo"), ("approve", "demo", "1", "--reason", "ok")):
        assert "there is no registry at" in run("models", *ask, code=2)
    elsewhere = f"sqlite:///{tmp_path / 'mistyped' / 'registry.db'}"
    assert "there is no registry at" in run("models", "verify", "--registry", elsewhere, code=2)
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "mistyped").exists()
    (tmp_path / "empty.db").touch()
    assert "holds no registry" in run("models", "verify", "--registry", f"sqlite:///{tmp_path / 'empty.db'}", code=2)
    run("models", "register", packages(1))
    assert "whole: 1 changes" in run("models", "verify")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("models", "as-of", "demo", "0001-01-01T00:00:00+05:00"), "outside of the years 1 to 9999"),
        (("models", "register", "PACKAGE", "--metadata", '{"a": ' + "[" * 9999 + "]" * 9999 + "}"), "no JSON"),
        (("desired", "set", "demo", "--pin", "9" * 20, "--reason", "r"), "VERSION=CLIENT;CLIENT is expected"),
        (("desired", "set", "demo", "--pin", "1=" + "x" * 300, "--reason", "r"), "VERSION=CLIENT;CLIENT is expected"),
    ],
    ids=["time", "metadata", "pin", "client"],
)
def test_values_beyond_every_bound_are_wrong_use(
    run: Run, packages: Packages, arguments: tuple[str, ...], answer: str
) -> None:
    run("models", "register", packages(1))
    run("models", "approve", "demo", "1", "--inconclusive", "--reason", "r")
    run("models", "promote", "demo", "1", "--reason", "r")
    assert answer in run(*(packages(1) if given == "PACKAGE" else given for given in arguments), code=2)


def test_pages_may_start_anywhere(run: Run, packages: Packages) -> None:
    run("models", "register", packages(1))
    beyond = "9" * 30
    assert run("models", "history", "demo", beyond, "--json") == []
    assert len(run("models", "history", "demo", "1", "--before", beyond, "--json")) == 1
    assert run("models", "history", "demo", "--before", f"-{beyond}", "--json") == []
    assert run("models", "list", "demo", "--before", f"-{beyond}", "--json") == []


def test_what_a_terminal_would_obey_is_shown_instead(run: Run, packages: Packages) -> None:
    run("models", "register", packages(1), "--reason", "first\x1b[2J\rnothing\x9b2K\u202e")
    shown = run("models", "history", "demo")
    assert r"first\x1b[2J\rnothing\x9b2K\u202e" in shown
    assert not {"\x1b", "\r", "\x9b", "\u202e"} & set(shown)


def test_no_filter_of_a_list_is_passed_over(run: Run, packages: Packages) -> None:
    run("models", "register", packages(1), "--label", "1.0.0")
    for given in (("--status", "retired"), ("--before", "1")):
        assert "of one model" in run("models", "list", *given, code=2)
        assert "takes neither" in run("models", "list", "demo", "--by-label", *given, code=2)


def test_wrong_use_says_so(run: Run, packages: Packages, tmp_path: Path) -> None:
    assert "cannot be read" in run("models", "register", packages(1), "--evaluation", "test=nope.npz", code=2)
    run("models", "register", packages(1), "--reason", "first")
    assert "no model 'other'" in run("models", "show", "other", code=2)
    assert "less than or equal to 36525" in run("models", "gc", "--retention-days", "1e300", code=2)
    assert "no file of SQLite and no PostgreSQL" in run("models", "list", "--registry", "mysql://x/y", code=2)
    unreachable = f"postgresql://nobody@/nothing?host={tmp_path}"
    assert "database failed" in run("models", "list", "--registry", unreachable, code=3)


def test_a_split_is_set_shown_and_tells_where_a_key_goes(run: Run, packages: Packages) -> None:
    for value in (1, 2, 3):
        run("models", "register", packages(value))
        run("models", "approve", "demo", value, "--reason", "fine", "--inconclusive")
    assert "has no split yet" in run("split", "show", "demo", code=2)
    run("models", "promote", "demo", "1", "--reason", "go")
    first = run("split", "set", "demo", "2=12.5", "3=0.01%", "--reason", "try", "--actor", "kim", "--json")
    assert [(each["version"], each["role"], each["weight_bp"]) for each in first["split"]] == [
        (2, "canary", 1250),
        (3, "canary", 1),
        (1, "stable", 8749),
    ]
    assert (first["revision"], first["actor"], first["reason"]) == (2, "kim", "try")
    assert [(each["version"], each["upto_bp"]) for each in first["segments"]] == [(2, 1250), (3, 1251), (1, 10_000)]
    shown = run("split", "show", "demo", "--key", "SPY", "--key", "QQQ", "--json")
    assert [each["key"] for each in shown["keys"]] == ["SPY", "QQQ"]
    assert {each["version"] for each in shown["keys"]} <= {1, 2, 3}
    assert "12.51% to 100%" in run("split", "show", "demo")
    assert "moved from revision 1 to 2" in run(
        "split", "set", "demo", "2=50", "--expected-revision", 1, "--reason", "r", code=1
    )
    alone = run("split", "set", "demo", "--salt", "next", "--reason", "enough", "--json")
    assert [each["weight_bp"] for each in alone["split"]] == [10_000]
    assert alone["salt"] == "next"
    assert run("models", "history", "demo", "--json")[0]["reason"] == "enough"


@pytest.mark.parametrize(
    "shares",
    [
        ["2=0"],
        ["2=100"],
        ["2=0.001"],
        ["2"],
        ["x=1"],
        ["2=nan"],
        ["2=1", "2=2"],
        ["2=60", "3=40"],
        ["1=50"],
        ["0=5"],
        ["9" * 23 + "=5"],
    ],
)
def test_shares_that_are_none_are_wrong_use(run: Run, packages: Packages, shares: list[str]) -> None:
    run("models", "register", packages(1))
    run("models", "approve", "demo", "1", "--reason", "fine", "--inconclusive")
    run("models", "promote", "demo", "1", "--reason", "go")
    run("split", "set", "demo", *shares, "--reason", "r", code=2)
    assert run("split", "show", "demo", "--json")["revision"] == 1


def test_a_split_needs_a_reason_and_an_approved_version(run: Run, packages: Packages) -> None:
    for value in (1, 2):
        run("models", "register", packages(value))
    run("models", "approve", "demo", "1", "--reason", "fine", "--inconclusive")
    run("models", "promote", "demo", "1", "--reason", "go")
    assert "say why" in run("split", "set", "demo", "2=1", "--reason", " ", code=2)
    assert "is validated" in run("split", "set", "demo", "2=1", "--reason", "r", code=1)


def test_a_pin_may_name_the_subject_of_a_certificate(run: Run, packages: Packages) -> None:
    run("models", "register", packages(1))
    run("models", "approve", "demo", "1", "--reason", "fine", "--inconclusive")
    run("models", "promote", "demo", "1", "--reason", "go")
    pin = "1=subject:CN=desk,O=fund;ipv4:10.0.0.1"
    state = run("desired", "set", "demo", "--pin", pin, "--reason", "r", "--json")["state"]
    assert state["allowed_pins"] == [{"version": 1, "clients": ["subject:CN=desk,O=fund", "ipv4:10.0.0.1"]}]
