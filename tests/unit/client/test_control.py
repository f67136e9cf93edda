"""The control client: typed status, changes, refusals, and waiting."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from tests.unit.client.scripted import DIGEST, Refusal, Script, ScriptedServer
from tickserve import ControlClient
from tickserve.client import Change, FailedChange, Halt, ModelState, ServerState, Shadow, Share, VersionStatus
from tickserve.errors import Code, ControlError, InvalidInputError, UnreachableError
from tickserve.prediction import Role
from tickserve.v1 import control_pb2 as pb

SINCE_NS = 1_704_164_645_678_901_234
SINCE = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[tuple[ControlClient, Script]]:
    server = ScriptedServer(f"unix:{tmp_path / 'admin.sock'}")
    with ControlClient(server.address, timeout_s=20.0) as client:
        yield client, server.script
    server.stop()


def test_status_is_typed(control: tuple[ControlClient, Script]) -> None:
    client, script = control
    halt = pb.HaltInfo(reason="fat finger", actor="ann", since_unix_ns=SINCE_NS)
    script.status = pb.StatusResponse(
        server_version="0.1.0",
        engine="python",
        state="SERVER_STATE_SERVING",
        started_at_unix_ns=SINCE_NS,
        plan_generation=4,
        source="directory",
        source_age_ns=1_500_000_000,
        source_error="disk on fire",
        server_id="s-1",
        listen=["127.0.0.1:1", "unix:/d.sock"],
        http="127.0.0.1:2",
        models=[
            pb.ModelStatus(
                name="m",
                state="MODEL_STATE_HALTED",
                halt=halt,
                is_following=True,
                versions=[
                    pb.VersionStatus(
                        version="2",
                        digest=DIGEST,
                        role="ROLE_STABLE",
                        weight_bp=10_000,
                        since_unix_ns=SINCE_NS,
                        resident_bytes=4096,
                        run_time_ns=9000,
                        golden_max_error=1e-7,
                    )
                ],
                desired=pb.DesiredState(
                    revision=5,
                    split=[pb.Share(version="3", role="ROLE_STABLE", weight_bp=10_000)],
                    fallback_version="1",
                    shadow=pb.Shadow(version="4", fraction_bp=250, salt="s", of="3"),
                    latency_edge_ns=1_500_000,
                    position_scale=0.5,
                    halt=halt,
                ),
                failed=[
                    pb.FailedChange(
                        version="3", digest=DIGEST, code=15, message="damaged", at_unix_ns=SINCE_NS, attempts=2
                    )
                ],
            ),
            pb.ModelStatus(name="n", state="MODEL_STATE_LOADING"),
        ],
    )
    status = client.status()
    assert (status.server_id, status.server_version, status.engine) == ("s-1", "0.1.0", "python")
    assert (status.state, status.started_at, status.plan_generation) == (ServerState.SERVING, SINCE, 4)
    assert (status.source, status.source_age_s, status.source_error) == ("directory", 1.5, "disk on fire")
    assert (status.listen, status.http) == (("127.0.0.1:1", "unix:/d.sock"), "127.0.0.1:2")
    model, loading = status.models
    assert (model.name, model.state, model.is_following) == ("m", ModelState.HALTED, True)
    assert model.halt == Halt("fat finger", "ann", SINCE)
    assert model.versions == (VersionStatus("2", DIGEST.hex(), Role.STABLE, 10_000, SINCE, 4096, 9000, 1e-7),)
    assert model.desired is not None
    assert (model.desired.revision, model.desired.fallback_version, model.desired.position_scale) == (5, "1", 0.5)
    assert (model.desired.shadow, model.desired.latency_edge_ns) == (Shadow("4", 250, of="3"), 1_500_000)
    assert (model.desired.split, model.desired.halt) == ((Share("3", Role.STABLE, 10_000),), model.halt)
    assert model.failed == (FailedChange("3", DIGEST.hex(), Code.DATA_LOSS, "damaged", SINCE, 2),)
    assert (loading.state, loading.halt, loading.desired) == (ModelState.LOADING, None, None)
    assert not status.is_serving


def test_changes_name_the_models_concerned(control: tuple[ControlClient, Script]) -> None:
    client, script = control
    script.models = {"m": script.models["m"], "n": script.models["m"]}
    assert client.halt("m", reason="r", actor="ann") == Change(("m",), 8)
    assert client.halt_all(reason="r", actor="ann") == Change(("m", "n"), 8)
    assert client.resume("m", actor="ann") == Change(("m",), 9)
    assert client.resume_all(actor="ann", reason="over") == Change(("m", "n"), 9)
    client.drain(actor="ann", reason="new kernel")
    assert script.controlled == [
        pb.HaltRequest(model="m", reason="r", actor="ann"),
        pb.HaltRequest(reason="r", actor="ann"),
        pb.ResumeRequest(model="m", actor="ann"),
        pb.ResumeRequest(actor="ann", reason="over"),
        pb.DrainRequest(actor="ann", reason="new kernel"),
    ]


def test_an_empty_model_never_means_all(control: tuple[ControlClient, Script]) -> None:
    client, script = control
    with pytest.raises(InvalidInputError, match="no model is named"):
        client.halt("", reason="r", actor="ann")
    with pytest.raises(InvalidInputError, match="no model is named"):
        client.resume("", actor="ann")
    assert script.controlled == []


def test_a_refusal_keeps_its_status_and_field(control: tuple[ControlClient, Script]) -> None:
    client, script = control
    script.control_refusal = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "actor is empty", (("tickserve-field", "actor"),)
    )
    with pytest.raises(ControlError, match="actor is empty") as caught:
        client.halt("m", reason="r", actor="")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "actor")


def test_no_server_is_unreachable(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'none.sock'}"
    with ControlClient(address) as client, pytest.raises(UnreachableError) as caught:
        client.status()
    assert address in caught.value.message
    assert "TICKSERVE_HOME" in caught.value.message


def test_wait_returns_the_status_waited_for(control: tuple[ControlClient, Script]) -> None:
    client, script = control
    seen = []

    def until(status: object) -> bool:
        seen.append(status)
        if len(seen) == 2:
            script.status = pb.StatusResponse(state="SERVER_STATE_SERVING")
        return client.status().is_serving

    assert client.wait(until, timeout_s=20.0) is seen[-1]
    assert len(seen) == 2


def test_wait_gives_up(control: tuple[ControlClient, Script], tmp_path: Path) -> None:
    client, script = control
    script.status = pb.StatusResponse(
        state="SERVER_STATE_STARTING", models=[pb.ModelStatus(name="m", state="MODEL_STATE_LOADING")]
    )
    with pytest.raises(ControlError, match="it is starting: m loading") as caught:
        client.wait(lambda status: status.is_serving, timeout_s=0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    with (
        ControlClient(f"unix:{tmp_path / 'none.sock'}") as nowhere,
        pytest.raises(UnreachableError),
    ):
        nowhere.wait(lambda status: True, timeout_s=0.2)


@pytest.mark.parametrize(
    ("server", "models", "is_serving"),
    [
        ("SERVING", (), True),
        ("SERVING", ("SERVING", "HALTED"), True),
        ("SERVING", ("SERVING", "LOADING"), False),
        ("SERVING", ("FAILED",), False),
        ("STARTING", ("SERVING",), False),
        ("DRAINING", ("SERVING",), False),
    ],
)
def test_a_server_serves_where_each_model_answers_or_was_stopped(
    control: tuple[ControlClient, Script], server: str, models: tuple[str, ...], is_serving: bool
) -> None:
    client, script = control
    script.status = pb.StatusResponse(
        state=f"SERVER_STATE_{server}", models=[pb.ModelStatus(state=f"MODEL_STATE_{model}") for model in models]
    )
    assert client.status().is_serving is is_serving
