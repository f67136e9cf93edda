"""`tickserve predict`, `status`, `halt`, `resume` and `drain` against a scripted server."""

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from tests.unit.client.scripted import DIGEST, Refusal, ScriptedServer
from tickserve.cli import app
from tickserve.errors import ControlError, InvalidInputError, UnreachableError
from tickserve.v1 import control_pb2, prediction_pb2

ARGUMENTS = ["a=1", "c=3", "b=2"]


class Shell:
    """Runs the program against one server."""

    def __init__(self, server: ScriptedServer) -> None:
        self.script = server.script
        self._runner = CliRunner(env={"TICKSERVE_ADDRESS": server.address, "TICKSERVE_ADMIN": server.address})

    def run(self, *arguments: str, stdin: str | None = None, columns: int = 200) -> str:
        """The output of a run that must succeed."""
        environment = {"COLUMNS": str(columns)}
        result = self._runner.invoke(app, arguments, input=stdin, env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def usage(self, *arguments: str, stdin: str | None = None) -> str:
        """The complaint of a run that must fail for its usage."""
        result = self._runner.invoke(app, arguments, input=stdin, catch_exceptions=False)
        assert result.exit_code == 2, result.output
        assert self.script.requests == []
        return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def shell(server: ScriptedServer) -> Shell:
    return Shell(server)


@pytest.mark.parametrize(
    ("arguments", "stdin", "values"),
    [
        (ARGUMENTS, None, [[1, 2, 3]]),
        (["--features", '{"a": 1, "c": 3, "b": 2}'], None, [[1, 2, 3]]),
        (["--features", '[{"a": 1, "c": 3, "b": 2}, {"a": 4, "b": 5, "c": 6}]'], None, [[1, 2, 3], [4, 5, 6]]),
        (["--features", "[1, 2, 3]"], None, [[1, 2, 3]]),
        (["--features", "-"], "[[1, 2, 3], [4, 5, 6]]", [[1, 2, 3], [4, 5, 6]]),
        (["--csv", "rows.csv"], None, [[1, 2, 3], [4, 5, 6]]),
    ],
    ids=["pairs", "object", "objects", "numbers", "stdin", "csv"],
)
def test_predict_takes_features_in_each_form(
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    stdin: str | None,
    values: list[list[float]],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("c,a,b\n3,1,2\n\n6,4,5\n")
    answer = json.loads(shell.run("predict", "--model", "m", "--json", *arguments, stdin=stdin))
    assert answer["values"] == values
    assert answer["value_names"] == ["echo_a", "echo_b", "echo_c"]
    assert (answer["model"], answer["version"], answer["digest"]) == ("m", "1", DIGEST.hex())
    assert (answer["role"], answer["signal"], answer["confidence"]) == ("stable", [0.5] * len(values), None)


def test_predict_passes_its_options_on(shell: Shell) -> None:
    shell.run(
        *("predict", "-m", "m", "--version", "4", "--request-id", "r", "--routing-key", "k", "--entity", "X"),
        *("--event-time", "2024-01-02T03:04:05Z", *ARGUMENTS),
    )
    (request,) = shell.script.requests
    assert (request.version, request.request_id, request.routing_key) == ("4", "r", "k")
    assert list(request.entities) == ["X"]
    assert request.event_time_unix_ns == 1_704_164_645 * 10**9


def test_predict_takes_now_for_an_event_time(shell: Shell) -> None:
    before = datetime.now(UTC)
    shell.run("predict", "-m", "m", "--event-time", "now", *ARGUMENTS)
    assert shell.script.requests[0].event_time_unix_ns >= int(before.timestamp()) * 10**9


def test_predict_prints_a_table(shell: Shell) -> None:
    def edit(answer: prediction_pb2.PredictResponse) -> None:
        answer.findings.add(kind="FINDING_KIND_CLIPPED", column=1, rule="bounds:[b]")

    shell.script.edit = edit
    output = shell.run("predict", "-m", "m", "--entity", "SPX", *ARGUMENTS)
    assert "m version 1 (stable), digest 000102030405, position scale 0.25, 1 us in the server" in output
    rows = [
        line.replace("┃", "│").split("│")[1:-1] for line in output.splitlines() if "echo_a" in line or "SPX" in line
    ]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["row", "entity", "echo_a", "echo_b", "echo_c", "signal"],
        ["0", "SPX", "1", "2", "3", "0.5"],
    ]
    assert "finding: clipped, row 0, column 1, rule bounds:[b]" in output


def test_predict_prints_json_that_any_parser_reads(shell: Shell) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    output = shell.run("predict", "-m", "m", "--json", "a=nan", "b=-inf", "c=0")
    assert json.loads(output, parse_constant=refuse)["values"] == [["nan", "-inf", 0.0]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the features in one way"),
        (["a=1", "--features", "[1]"], "give the features in one way"),
        (["a"], "'a' is not NAME=VALUE"),
        (["a=1", "a=2"], "feature 'a' appears twice"),
        (["a=x"], "feature 'a': 'x' is no number"),
        (["--features", "{"], "--features is no JSON"),
        (["--csv", "none.csv"], "none.csv cannot be read"),
        (["--csv", "short.csv"], "short.csv, line 3 has 1 values under 2 names"),
        (["--csv", "text.csv"], "text.csv, line 2, 'b': 'x' is no number"),
        (["--csv", "twice.csv"], "appears twice in the header"),
        (["a=1", "--event-time", "noon"], "neither `now` nor ISO 8601"),
    ],
)
def test_predict_says_what_is_wrong_with_its_arguments(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.csv").write_text("a,b\n1,2\n3\n")
    Path("text.csv").write_text("a,b\n1,x\n")
    Path("twice.csv").write_text("a,a\n1,2\n")
    assert words in shell.usage("predict", "-m", "m", *arguments)


def test_predict_raises_what_the_client_raises(shell: Shell) -> None:
    with pytest.raises(InvalidInputError, match="unknown: 'z'"):
        shell.run("predict", "-m", "m", "z=1", *ARGUMENTS)
    with pytest.raises(UnreachableError):
        shell.run("predict", "-m", "m", "--address", "unix:/nowhere.sock", *ARGUMENTS)


STATUS = control_pb2.StatusResponse(
    server_version="0.1.0",
    engine="python",
    state="SERVER_STATE_SERVING",
    started_at_unix_ns=1_704_164_645 * 10**9,
    plan_generation=4,
    source="directory [a]",
    source_age_ns=1_500_000_000,
    server_id="s-1",
    listen=["127.0.0.1:8500", "unix:/d.sock"],
    http="127.0.0.1:8501",
    models=[
        control_pb2.ModelStatus(
            name="m",
            state="MODEL_STATE_HALTED",
            is_following=True,
            halt=control_pb2.HaltInfo(reason="fat [finger]", actor="ann", since_unix_ns=1_704_164_645 * 10**9),
            versions=[
                control_pb2.VersionStatus(
                    version="2",
                    digest=DIGEST,
                    role="ROLE_STABLE",
                    weight_bp=10_000,
                    since_unix_ns=1_704_164_645 * 10**9,
                    resident_bytes=3 << 20,
                    run_time_ns=9000,
                )
            ],
            desired=control_pb2.DesiredState(
                revision=3,
                split=[control_pb2.Share(version="2", role="ROLE_STABLE", weight_bp=10_000)],
                actor="kim",
                reason="rolled back from version 3: bad [fills]",
                at_unix_ns=1_704_164_645 * 10**9,
            ),
            failed=[control_pb2.FailedChange(version="3", code=15, message="model.onnx is damaged", attempts=2)],
        ),
        control_pb2.ModelStatus(name="n", state="MODEL_STATE_LOADING"),
    ],
)


def test_status_prints_what_is_served_and_what_failed(shell: Shell) -> None:
    shell.script.status = STATUS
    output = shell.run("status")
    assert "serving since 2024-01-02 03:04:05 UTC, plan generation 4" in output
    assert "data on 127.0.0.1:8500, unix:/d.sock; http on 127.0.0.1:8501" in output
    assert "from directory [a], read 1.5 s ago" in output
    rows = [line.split() for line in output.splitlines()]
    assert ["2", "stable", "100%", "00010203", "01-02", "03:04", "9", "3.0"] in rows
    assert ["m:", "halted"] in rows
    assert ["n:", "loading,", "held"] in rows
    assert "halted by ann at 2024-01-02 03:04:05 UTC: fat [finger]" in output
    assert "(tried 2 times): DATA_LOSS: model.onnx is damaged" in output
    assert "since 2024-01-02 03:04:05 UTC, by kim: rolled back from version 3: bad [fills]\n" in output


def test_status_is_whole_in_a_terminal_of_80_columns(shell: Shell) -> None:
    status = control_pb2.StatusResponse()
    status.CopyFrom(STATUS)
    model = status.models[0]
    model.name = "momentum_5m_eur_usd_with_a_long_name_" * 2
    model.versions[0].version, model.versions[0].run_time_ns = "123456789", 1_234_567_000
    model.versions[0].role, model.versions[0].weight_bp = "ROLE_PREVIOUS", 1234
    model.versions[0].resident_bytes = 123_456 << 20
    shell.script.status = status
    lines = shell.run("status", columns=80).splitlines()
    assert max(map(len, lines)) <= 80
    row = ["123456789", "previous", "12.34%", "00010203", "01-02", "03:04", "1234567", "123456.0"]
    assert row in [line.split() for line in lines]
    assert "(tried 2 times): DATA_LOSS: model.onnx is damaged" in " ".join(" ".join(lines).split())


def test_status_says_what_shadow_and_fallback_do(shell: Shell) -> None:
    desired = control_pb2.DesiredState(
        shadow=control_pb2.Shadow(version="2", fraction_bp=250, salt="s", of="1"), fallback_version="3"
    )
    served = [control_pb2.VersionStatus(version=number, digest=DIGEST, role="ROLE_SHADOW") for number in "23"]
    model = control_pb2.ModelStatus(name="m", desired=desired, versions=served, is_following=True)
    shell.script.status = control_pb2.StatusResponse(models=[model])
    output = shell.run("status")
    assert "version 2 gets copies of 2.5% of the requests of version 1" in output
    assert "version 3 answers where another breaks an output rule of policy fallback" in output
    # One is not loaded, the other does not fit.
    model = control_pb2.ModelStatus(
        name="m",
        desired=desired,
        versions=served[:1],
        failed=[control_pb2.FailedChange(version="2", message="other inputs")],
    )
    model.desired.shadow.of = ""
    shell.script.status = control_pb2.StatusResponse(models=[model])
    output = shell.run("status")
    assert "version 2 is to get copies of 2.5% of the requests of every other version" in output
    assert "version 3 is to answer where another" in output
    assert "other inputs" in output


def test_status_prints_json(shell: Shell) -> None:
    shell.script.status = STATUS
    status = json.loads(shell.run("status", "--json"))
    (model, _) = status["models"]
    assert (status["state"], status["started_at"]) == ("serving", "2024-01-02T03:04:05+00:00")
    assert (model["versions"][0]["digest"], model["failed"][0]["code"]) == (DIGEST.hex(), "DATA_LOSS")


def test_changes_say_who_asked_and_what_was_done(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    assert shell.run("halt", "m", "--reason", "odd signals") == "halted: m (plan generation 8)\n"
    assert json.loads(shell.run("halt", "--all", "--reason", "r", "--json")) == {"models": ["m"], "plan_generation": 8}
    assert shell.run("resume", "m", "--actor", "bob") == "resumed: m (plan generation 9)\n"
    assert shell.run("resume", "--all", "--reason", "over") == "resumed: m (plan generation 9)\n"
    assert shell.run("drain", "--reason", "new kernel") == "draining\n"
    assert shell.script.controlled == [
        control_pb2.HaltRequest(model="m", actor="ann", reason="odd signals"),
        control_pb2.HaltRequest(actor="ann", reason="r"),
        control_pb2.ResumeRequest(model="m", actor="bob"),
        control_pb2.ResumeRequest(actor="ann", reason="over"),
        control_pb2.DrainRequest(actor="ann", reason="new kernel"),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["halt", "--reason", "r"], "name one model, or give --all"),
        (["halt", "m", "--all", "--reason", "r"], "name one model, or give --all"),
        (["halt", "m"], "--reason"),
        (["resume"], "name one model, or give --all"),
    ],
)
def test_a_change_needs_its_object_and_reason(shell: Shell, arguments: list[str], words: str) -> None:
    assert words in shell.usage(*arguments)
    assert shell.script.controlled == []


def test_a_user_without_a_name_must_say_who_asks(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise OSError("no name")

    monkeypatch.setattr(getpass, "getuser", fail)
    assert "say who asks with --actor" in shell.usage("drain")
    assert shell.script.controlled == []


def test_a_refused_change_raises_it(shell: Shell) -> None:
    shell.script.control_refusal = Refusal(grpc.StatusCode.NOT_FOUND, "unknown model 'x'")
    with pytest.raises(ControlError, match="unknown model 'x'"):
        shell.run("halt", "x", "--reason", "r")


def test_the_admin_listener_is_by_default_the_socket_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_HOME", str(tmp_path))
    monkeypatch.delenv("TICKSERVE_ADMIN", raising=False)
    server = ScriptedServer(f"unix:{tmp_path / 'admin.sock'}")
    server.script.status = STATUS
    result = CliRunner().invoke(app, ["status", "--json"], catch_exceptions=False)
    server.stop()
    assert json.loads(result.output)["server_id"] == "s-1"
