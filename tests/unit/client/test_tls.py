"""TLS: the server's certificate is checked, and the client's own is shown."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from tests.unit.client.blocking import Connect
from tests.unit.client.scripted import ScriptedServer
from tickserve.cli import app
from tickserve.client import Tls
from tickserve.errors import ConfigurationError, UnreachableError

ROW = {"a": 1.0, "b": 2.0, "c": 3.0}


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for `name` that is its own authority, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    options = ["-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """For 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[ScriptedServer]:
    """Asks for a client certificate of the same authority."""
    authority, key = (path.read_bytes() for path in certificate)
    credentials = grpc.ssl_server_credentials([(key, authority)], root_certificates=authority, require_client_auth=True)
    server = ScriptedServer(credentials=credentials)
    yield server
    server.stop()


def test_both_sides_show_their_certificates(
    tls_server: ScriptedServer, certificate: tuple[Path, Path], connect: Connect
) -> None:
    authority, key = certificate
    tls = Tls(ca_file=authority, certificate_file=authority, key_file=key)
    with connect(tls_server.address, model="m", timeout_s=20.0, tls=tls) as client, client.stream() as stream:
        assert client.predict(ROW).rows == 1
        assert stream.predict(ROW).rows == 1


@pytest.mark.parametrize("with_authority", [True, False], ids=["no own certificate", "unknown authority"])
def test_an_untrusted_side_is_unreachable(
    tls_server: ScriptedServer, certificate: tuple[Path, Path], connect: Connect, with_authority: bool
) -> None:
    authority, key = certificate
    tls = Tls(ca_file=authority) if with_authority else Tls(certificate_file=authority, key_file=key)
    with (
        connect(tls_server.address, model="m", timeout_s=20.0, tls=tls) as client,
        pytest.raises(UnreachableError),
    ):
        client.predict(ROW)
    assert tls_server.script.described == []


def test_a_server_may_bear_another_name_than_its_address(tmp_path: Path, connect: Connect) -> None:
    certificate, key = make_certificate(tmp_path, "DNS:model.example")
    chain, secret = certificate.read_bytes(), key.read_bytes()
    server = ScriptedServer(credentials=grpc.ssl_server_credentials([(secret, chain)]))
    named, unnamed = Tls(ca_file=certificate, server_name="model.example"), Tls(ca_file=certificate)
    with connect(server.address, model="m", timeout_s=20.0, tls=named) as client:
        assert client.predict(ROW).rows == 1
    described = len(server.script.described)
    with (
        connect(server.address, model="m", timeout_s=20.0, tls=unnamed) as client,
        pytest.raises(UnreachableError) as caught,
    ):
        client.predict(ROW)
    assert not caught.value.executed
    assert len(server.script.described) == described
    server.stop()


def test_a_key_without_its_certificate_is_refused(certificate: tuple[Path, Path], connect: Connect) -> None:
    with pytest.raises(ConfigurationError, match="go together"):
        connect("localhost:1", tls=Tls(key_file=certificate[1]))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, connect: Connect) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.pem") as caught:
        connect("localhost:1", tls=Tls(ca_file=tmp_path / "none.pem"))
    assert caught.value.field == "tls.ca_file"


@pytest.mark.parametrize("field", ["ca_file", "certificate_file", "key_file"])
def test_a_file_of_something_else_is_named(
    certificate: tuple[Path, Path], connect: Connect, tmp_path: Path, field: str
) -> None:
    (tmp_path / "other.pem").write_text("root:x:0:0")
    files = {"ca_file": certificate[0], "certificate_file": certificate[0], "key_file": certificate[1]}
    with pytest.raises(ConfigurationError, match=r"other\.pem is not PEM") as caught:
        connect("localhost:1", tls=Tls(**files | {field: tmp_path / "other.pem"}))
    assert caught.value.field == f"tls.{field}"


def test_predict_shows_its_certificate_from_the_command_line(
    tls_server: ScriptedServer, certificate: tuple[Path, Path]
) -> None:
    authority, key = map(str, certificate)
    command = ["predict", "-m", "m", "--address", tls_server.address, "--timeout-s", "20", "a=1", "b=2", "c=3"]
    certificates = ["--tls-ca", authority, "--tls-cert", authority, "--tls-key", key]
    result = CliRunner().invoke(app, [*command, *certificates], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with pytest.raises(UnreachableError):
        CliRunner().invoke(app, [*command, "--tls-ca", authority], catch_exceptions=False)
    with pytest.raises(ConfigurationError, match="go together"):
        CliRunner().invoke(app, [*command, "--tls-cert", authority], catch_exceptions=False)
