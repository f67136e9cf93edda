"""TLS and client certificates on a running server, and their change without the loss of a connection."""

import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.e2e.conftest import PROGRAM, Launcher, Running
from tests.support.certificates import Authority, put
from tests.support.models import FEATURES
from tests.support.packages import add_constant, add_endless_load
from tickserve.client import Client, ControlClient, ServerStatus, Tls
from tickserve.errors import UnreachableError
from tickserve.wire import grpc_service_pb2 as oip

BOUND_S = 60.0
ROW = dict.fromkeys(FEATURES, 1.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "other")


class Files:
    """The server's TLS files and the options that name them."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.certificate, self.key, self.client_ca = (folder / name for name in ("cert.pem", "key.pem", "clients.pem"))
        authority.sign("server").move_to(self.certificate, self.key)
        put(authority.certificate, self.client_ca)

    @property
    def tls(self) -> list[str]:
        return ["--tls-cert", str(self.certificate), "--tls-key", str(self.key)]

    @property
    def mutual(self) -> list[str]:
        return [*self.tls, "--tls-client-ca", str(self.client_ca)]


@pytest.fixture
def files(launcher: Launcher, authority: Authority) -> Files:
    add_constant(launcher.models, 0.5)
    return Files(launcher.home, authority)


@pytest.fixture
def ask() -> Iterator[Callable[..., float]]:
    """Asks once over a connection of its own, and keeps it open."""
    with ExitStack() as clients:

        def ask(address: str, tls: Tls | None) -> Client:
            client = clients.enter_context(Client(address, model="demo", timeout_s=60.0, tls=tls))
            answers(client)
            return client

        yield ask


def answers(client: Client) -> None:
    assert client.predict(ROW).values.tolist() == [[0.5]]


def wait_for(running: Running, line: str) -> None:
    """Until the server's metrics hold the line."""
    end = time.monotonic() + BOUND_S
    while True:
        with urllib.request.urlopen(f"http://{running.http}/metrics", timeout=60) as response:
            metrics = response.read().decode()
        if line in metrics.splitlines():
            return
        if time.monotonic() > end:
            pytest.fail(f"{line} did not come; {[seen for seen in metrics.splitlines() if 'tls' in seen]}")


def wait_until_reloaded(running: Running, times: int = 1) -> None:
    running.control.wait(lambda _: running.log.read_text().count("tls_reloaded") == times, BOUND_S)


def test_clients_check_the_server(
    launcher: Launcher, files: Files, authority: Authority, other: Authority, ask: Callable[..., Client]
) -> None:
    with launcher.serve(*files.tls) as running:
        ask(running.address, authority.client())
        for stranger in (other.client(), None):
            with pytest.raises(UnreachableError):
                ask(running.address, stranger)
        assert running.terminate() == 0


def test_clients_that_grpc_makes_are_served(launcher: Launcher, files: Files, authority: Authority) -> None:
    own = authority.sign("engine")
    trust = [path.read_bytes() for path in (authority.certificate, own.key, own.certificate)]
    request = oip.ModelInferRequest(model_name="demo", raw_input_contents=[np.ones((1, 3), np.float32).tobytes()])
    request.inputs.add(name="features", datatype="FP32", shape=[1, 3])
    with (
        launcher.serve(*files.mutual) as running,
        grpc.secure_channel(running.address, grpc.ssl_channel_credentials(*trust)) as channel,
    ):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = oip.ModelInferResponse.FromString(infer(request.SerializeToString(), timeout=BOUND_S))
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [0.5]


def test_server_checks_the_clients(
    launcher: Launcher, files: Files, authority: Authority, other: Authority, ask: Callable[..., Client]
) -> None:
    without_certificate = authority.client()
    of_another_authority = authority.client(other.sign("stranger"))
    expired = authority.client(authority.sign("late", is_expired=True))
    with launcher.serve(*files.mutual) as running:
        known = ask(running.address, authority.client(authority.sign("engine")))
        for tls in (without_certificate, of_another_authority, expired):
            with pytest.raises(UnreachableError):
                ask(running.address, tls)
        answers(known)


def test_new_certificate_is_for_new_connections_and_old_ones_go_on(
    launcher: Launcher, files: Files, authority: Authority, other: Authority, ask: Callable[..., Client]
) -> None:
    with launcher.serve(*files.tls, "--listen", "127.0.0.1:0") as running:
        addresses = running.control.status().listen
        assert len(addresses) == 2
        # These trust the first authority alone: they could not connect again.
        before = [ask(address, authority.client()) for address in addresses]
        other.sign("renewed").move_to(files.certificate, files.key)
        wait_until_reloaded(running)
        for address, client in zip(addresses, before, strict=True):
            ask(address, other.client())
            with pytest.raises(UnreachableError):
                ask(address, authority.client())
            answers(client)


def test_certificate_is_renewed_while_a_model_loads(
    launcher: Launcher, files: Files, authority: Authority, other: Authority, ask: Callable[..., Client]
) -> None:
    def loads(status: ServerStatus) -> bool:
        return any(model.name == "endless" and model.state == "loading" for model in status.models)

    with launcher.serve(*files.tls) as running:
        add_endless_load(launcher.models)
        running.control.wait(loads, BOUND_S)
        other.sign("renewed").move_to(files.certificate, files.key)
        wait_until_reloaded(running)
        ask(running.address, other.client())
        assert loads(running.control.status())
        assert running.terminate() == 0


def test_new_client_authority_is_for_new_connections_and_old_ones_go_on(
    launcher: Launcher, files: Files, authority: Authority, other: Authority, ask: Callable[..., Client]
) -> None:
    first, second = authority.client(authority.sign("engine")), authority.client(other.sign("newcomer"))
    with launcher.serve(*files.mutual) as running:
        before = ask(running.address, first)
        put(other.certificate, files.client_ca)
        wait_until_reloaded(running)
        ask(running.address, second)
        with pytest.raises(UnreachableError):
            ask(running.address, first)
        answers(before)


def write_at_once(path: Path, content: bytes) -> None:
    """So that no server sees less of it."""
    staged = path.with_suffix(".staged")
    staged.write_bytes(content)
    staged.rename(path)


def test_half_a_change_keeps_the_old_certificate_until_it_is_whole(
    launcher: Launcher, files: Files, authority: Authority, other: Authority, ask: Callable[..., Client]
) -> None:
    renewed = other.sign("half")
    with launcher.serve(*files.tls) as running:
        wait_for(running, "tickserve_tls_reload_refused 0.0")
        content = renewed.certificate.read_bytes()
        write_at_once(files.certificate, content[: len(content) // 2])
        wait_for(running, "tickserve_tls_reload_refused 1.0")
        ask(running.address, authority.client())
        write_at_once(files.certificate, content)
        running.control.wait(lambda _: "is not the key of the certificate" in running.log.read_text(), BOUND_S)
        ask(running.address, authority.client())
        put(renewed.key, files.key)
        wait_for(running, "tickserve_tls_reload_refused 0.0")
        ask(running.address, other.client())
        log = running.log.read_text()
        assert (log.count("tls_reload_refused"), log.count("tls_reloaded")) == (2, 1)


def test_unix_socket_beside_tls_stays_plain(launcher: Launcher, files: Files, ask: Callable[..., Client]) -> None:
    with launcher.serve(*files.mutual, "--listen", f"unix:{launcher.home}/data.sock") as running:
        ask(running.control.status().listen[1], None)


def test_bad_files_keep_the_server_from_starting(launcher: Launcher, files: Files, authority: Authority) -> None:
    put(authority.sign("another").key, files.key)
    failed = launcher.run("serve", "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", *files.tls, code=2)
    assert f"setting tls_key: {files.key} is not the key of the certificate in {files.certificate}" in failed.stderr


def test_operators_reach_a_tcp_admin_listener_with_their_certificate(launcher: Launcher, authority: Authority) -> None:
    add_constant(launcher.models, 0.5)
    files = Files(launcher.home, authority)
    operators = Authority(launcher.home, "operators")
    certificate, key = launcher.home / "operator.pem", launcher.home / "operator.key"
    operators.sign("operator").move_to(certificate, key)
    admin = free_address()
    options = ["--admin", admin, "--admin-client-ca", str(operators.certificate), *files.tls]
    process = subprocess.Popen(
        [PROGRAM, "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *options],
        env=launcher.environment,
        stderr=subprocess.DEVNULL,
    )
    tls = ("--admin", admin, "--tls-ca", str(authority.certificate))
    mutual = (*tls, "--tls-cert", str(certificate), "--tls-key", str(key))
    try:
        with closing(ControlClient(admin, timeout_s=60.0, tls=Tls(authority.certificate, certificate, key))) as control:
            control.wait(lambda status: status.state == "serving", 60)
        launcher.run("halt", "demo", "--reason", "test", "--actor", "kim", *mutual)
        assert '"halted"' in launcher.run("status", "--json", *mutual).stdout
        launcher.run("status", *tls, code=3)
        launcher.run("drain", "--actor", "kim", *mutual)
        assert process.wait(60) == 0
    finally:
        process.kill()


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"
