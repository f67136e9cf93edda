"""openssl s_client and grpcurl against a TLS listener, with and without client certificates."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher
from tests.integration.programs import call
from tests.support.packages import add_constant

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
# What s_client prints of a server that asks for the client's certificate.
CERTIFICATE_REQUEST = "Requested Signature Algorithms"
CHECK = "grpc.health.v1.Health/Check"


class Certificates:
    """A certificate authority in a folder, and what it signed; made by openssl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = self.file("ca.pem")
        subject = ("-subj", "/CN=test authority", "-days", "1")
        call("openssl", "req", "-x509", *KEY, "-keyout", self.file("ca.key"), "-out", self.ca, *subject)
        self._sign("server", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self._sign("client", "subjectAltName=DNS:engine-7")

    def file(self, name: str) -> str:
        return str(self._folder / name)

    def _sign(self, name: str, extension: str) -> None:
        request, key = self.file(f"{name}.csr"), self.file(f"{name}.key")
        call("openssl", "req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}", "-addext", extension)
        authority = ("-CA", self.ca, "-CAkey", self.file("ca.key"), "-copy_extensions", "copy")
        signed = ("-out", self.file(f"{name}.pem"), "-days", "1")
        call("openssl", "x509", "-req", "-in", request, *authority, *signed)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def settings(launcher: Launcher, certificates: Certificates, *, with_client_ca: bool) -> tuple[str, str]:
    """A settings file for one model behind TLS."""
    add_constant(launcher.models, 0.5)
    lines = [f'tls_cert = "{certificates.file("server.pem")}"', f'tls_key = "{certificates.file("server.key")}"']
    if with_client_ca:
        lines.append(f'tls_client_ca = "{certificates.ca}"')
    file = launcher.home / "settings.toml"
    file.write_text("\n".join(lines))
    return "--config", str(file)


def s_client(address: str, ca: str, *options: str, code: int = 0) -> str:
    """One handshake, as HTTP/2 clients make it."""
    verify = ("-CAfile", ca, "-verify_return_error", "-verify_ip", "127.0.0.1")
    return call("openssl", "s_client", "-connect", address, "-alpn", "h2", *verify, *options, code=code)


def test_server_proves_who_it_is_and_speaks_http2(launcher: Launcher, certificates: Certificates) -> None:
    with launcher.serve(*settings(launcher, certificates, with_client_ca=False)) as served:
        said = s_client(served.address, certificates.ca)
        assert "Verification: OK" in said
        assert "ALPN protocol: h2" in said
        assert "New, TLSv1.3" in said
        assert CERTIFICATE_REQUEST not in said
        assert "New, TLSv1.2" in s_client(served.address, certificates.ca, "-tls1_2")
        call("grpcurl", "-max-time", "20", "-cacert", certificates.ca, served.address, CHECK)
        call("grpcurl", "-connect-timeout", "2", "-plaintext", served.address, CHECK, code=1)


def test_old_protocol_versions_are_refused(launcher: Launcher, certificates: Certificates) -> None:
    with launcher.serve(*settings(launcher, certificates, with_client_ca=False)) as served:
        s_client(served.address, certificates.ca, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", code=1)


def test_client_certificates_are_asked_for(launcher: Launcher, certificates: Certificates) -> None:
    own = ("-cert", certificates.file("client.pem"), "-key", certificates.file("client.key"))
    with launcher.serve(*settings(launcher, certificates, with_client_ca=True)) as served:
        said = s_client(served.address, certificates.ca, *own)
        assert CERTIFICATE_REQUEST in said
        # TLS 1.2 says so within the handshake; a TLS 1.3 client may only learn it at its first read.
        s_client(served.address, certificates.ca, "-tls1_2", code=1)
        s_client(served.address, certificates.ca, *own, "-tls1_2")
        trusted = ("-max-time", "20", "-cacert", certificates.ca)
        call("grpcurl", *trusted, *own, served.address, CHECK)
        call("grpcurl", *trusted, "-connect-timeout", "2", served.address, CHECK, code=1)
