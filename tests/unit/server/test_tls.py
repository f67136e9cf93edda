"""Certificates: a set of files is taken whole or not at all, at start and when it changes."""

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import prometheus_client
import pytest
from structlog.testing import capture_logs

from server.app import export_certificates
from tests.support.certificates import Authority, Signed
from tickserve.errors import ConfigurationError
from tickserve.listening.tls import Certificates, TlsFiles

Spoil = Callable[[TlsFiles], object]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def first(authority: Authority) -> Signed:
    return authority.sign("first")


@pytest.fixture(scope="module")
def second(authority: Authority) -> Signed:
    return authority.sign("second")


@pytest.fixture(scope="module")
def expired(authority: Authority) -> Signed:
    return authority.sign("expired", is_expired=True)


@pytest.fixture
def files(tmp_path: Path, first: Signed, authority: Authority) -> TlsFiles:
    paths = [tmp_path / name for name in ("cert.pem", "key.pem", "clients.pem", "operators.pem")]
    for source, path in zip(
        (first.certificate, first.key, authority.certificate, authority.certificate), paths, strict=True
    ):
        shutil.copy(source, path)
    return TlsFiles(*paths)


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def encrypt(path: Path) -> None:
    command = ["openssl", "ec", "-in", str(path), "-aes128", "-passout", "pass:secret", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)


def test_expiry_is_said_for_each_file(files: TlsFiles) -> None:
    expires = Certificates(files).current.expires_unix
    assert set(expires) == {"tls_cert", "tls_client_ca", "admin_client_ca"}
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).timestamp()
    assert expires["tls_cert"] == pytest.approx(tomorrow, abs=600)
    assert expires["tls_client_ca"] > tomorrow + 86_400


def test_the_first_authority_to_expire_counts(files: TlsFiles, expired: Signed) -> None:
    assert files.client_ca is not None
    with files.client_ca.open("ab") as opened:
        opened.write(expired.certificate.read_bytes())
    assert Certificates(files).current.expires_unix["tls_client_ca"] == datetime(2020, 1, 2, tzinfo=UTC).timestamp()


def test_certificate_and_key_may_share_a_file(files: TlsFiles) -> None:
    with files.certificate.open("ab") as opened:
        opened.write(files.key.read_bytes())
    assert Certificates(TlsFiles(files.certificate, files.certificate)).current.client_ca is None


@pytest.mark.parametrize(
    ("spoil", "setting", "text"),
    [
        (lambda files: files.certificate.unlink(), "tls_cert", "cannot be read: No such file"),
        (lambda files: halve(files.certificate), "tls_cert", "no whole PEM certificate"),
        (lambda files: halve(files.key), "tls_key", "no whole PEM private key"),
        (lambda files: encrypt(files.key), "tls_key", "is encrypted"),
        (lambda files: files.client_ca.write_text(""), "tls_client_ca", "no whole PEM certificate"),
        (lambda files: halve(files.admin_client_ca), "admin_client_ca", "no whole PEM certificate"),
    ],
    ids=["absent", "half a certificate", "half a key", "encrypted key", "no authority", "half an authority"],
)
def test_bad_file_is_named_by_its_setting(files: TlsFiles, spoil: Spoil, setting: str, text: str) -> None:
    spoil(files)
    with pytest.raises(ConfigurationError, match=text) as caught:
        Certificates(files)
    assert caught.value.field == setting
    assert f"setting {setting}: {files.certificate.parent}" in caught.value.message


def test_key_of_another_certificate_is_refused(files: TlsFiles, second: Signed) -> None:
    shutil.copy(second.key, files.key)
    with pytest.raises(ConfigurationError, match="is not the key of the certificate in"):
        Certificates(files)


def test_expired_certificate_is_refused(files: TlsFiles, expired: Signed) -> None:
    expired.move_to(files.certificate, files.key)
    with pytest.raises(ConfigurationError, match=r"expired at 2020-01-02T00:00:00\+00:00"):
        Certificates(files)


@pytest.mark.parametrize("kind", ["ed25519", "ec -pkeyopt ec_paramgen_curve:secp521r1"])
def test_key_that_no_grpc_client_can_use_is_refused(files: TlsFiles, kind: str) -> None:
    command = f"openssl req -x509 -nodes -subj /CN=x -newkey {kind} -keyout {files.key} -out {files.certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    with pytest.raises(ConfigurationError, match="take RSA, ECDSA P-256 or P-384"):
        Certificates(files)


@pytest.mark.parametrize("kind", ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-384"])
def test_other_keys_are_taken(files: TlsFiles, kind: str) -> None:
    command = f"openssl req -x509 -nodes -subj /CN=x -newkey {kind} -keyout {files.key} -out {files.certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    assert Certificates(files).current.key == files.key.read_bytes()


def test_half_a_change_keeps_the_old_set_and_is_said_once(files: TlsFiles, second: Signed) -> None:
    certificates = Certificates(files)
    old = certificates.current
    with capture_logs() as logs:
        shutil.copy(second.certificate, files.certificate)
        certificates.refresh()
        certificates.refresh()
        assert certificates.current is old
        assert "is not the key" in certificates.refused
        shutil.copy(second.key, files.key)
        certificates.refresh()
        certificates.refresh()
    assert [entry["event"] for entry in logs] == ["tls_reload_refused", "tls_reloaded"]
    assert certificates.refused == ""
    assert certificates.current.certificate == second.certificate.read_bytes()
    assert certificates.current.key == second.key.read_bytes()


def test_files_that_did_not_change_keep_the_very_same_identity(files: TlsFiles) -> None:
    certificates = Certificates(files)
    old = certificates.current
    files.certificate.touch()
    certificates.refresh()
    assert certificates.current is old


def test_the_key_is_not_shown(files: TlsFiles) -> None:
    assert "PRIVATE KEY" not in repr(Certificates(files).current)


def test_expiry_and_a_refused_reload_are_metrics(files: TlsFiles, expired: Signed) -> None:
    certificates = Certificates(files)
    registry = prometheus_client.CollectorRegistry()
    export_certificates(certificates, registry)
    expiry = registry.get_sample_value("tickserve_tls_certificate_expiry_seconds", {"setting": "tls_cert"})
    assert expiry == certificates.current.expires_unix["tls_cert"]
    assert registry.get_sample_value("tickserve_tls_reload_refused") == 0
    shutil.copy(expired.certificate, files.certificate)
    certificates.refresh()
    assert registry.get_sample_value("tickserve_tls_reload_refused") == 1
