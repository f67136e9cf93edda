"""Certificates of the TCP listeners: checked as one set, and replaced as one set when the files change."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tickserve.errors import ConfigurationError

_log = structlog.get_logger()
#: With other curves, and with Ed25519, gRPC's handshake finds no common signature algorithm.
_CURVES = ("secp256r1", "secp384r1")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate with its chain, its key, and who may vouch for clients and for operators."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    admin_client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """The checked content of the files; `expires_unix` says by setting when the first certificate in use expires."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    admin_client_ca: bytes | None
    expires_unix: dict[str, float]


class Certificates:
    """The identity that new connections get; connections that are up keep the one they began with.

    `current` is replaced as a whole by the thread that calls `refresh`, and may be read by any. `refused` says why
    the files as they are now are not served, and is empty while they are.

    Raises
    ------
    ConfigurationError
        Naming the setting whose file is no good.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.refused = ""
        self.current = _load(files)
        self._listeners: list[Callable[[TlsIdentity], None]] = []

    def on_change(self, listener: Callable[[TlsIdentity], None]) -> None:
        """Has `listener` called with each new identity, on the thread that refreshes, before it becomes `current`.

        One that cannot serve it raises ConfigurationError; then the identity is refused like any that is no good.
        """
        self._listeners.append(listener)

    def refresh(self) -> None:
        """Takes up what the files hold now; where that is no good, says so once and keeps what there is."""
        try:
            identity = _load(self._files)
            is_new = identity != self.current
            if is_new:
                for listener in self._listeners:
                    listener(identity)
        except ConfigurationError as error:
            if error.message != self.refused:
                _log.error("tls_reload_refused", reason=error.message)
            self.refused = error.message
            return
        self.refused = ""
        if is_new:
            self.current = identity
            expires = datetime.fromtimestamp(identity.expires_unix["tls_cert"], UTC)
            _log.info("tls_reloaded", certificate_expires=expires.isoformat())


def _load(files: TlsFiles) -> TlsIdentity:
    certificate = _read("tls_cert", files.certificate)
    key = _read("tls_key", files.key)
    leaf = _certificates("tls_cert", files.certificate, certificate)[0]
    _check_times(files.certificate, leaf)
    _check_kind(files.certificate, leaf.public_key())
    if _public_bytes(_public_key(files.key, key)) != _public_bytes(leaf.public_key()):
        raise _wrong("tls_key", f"{files.key} is not the key of the certificate in {files.certificate}")
    expires = {"tls_cert": leaf.not_valid_after_utc.timestamp()}
    authorities: dict[str, bytes | None] = {}
    for setting, path in (("tls_client_ca", files.client_ca), ("admin_client_ca", files.admin_client_ca)):
        authorities[setting] = None
        if path is not None:
            content = authorities[setting] = _read(setting, path)
            found = _certificates(setting, path, content)
            expires[setting] = min(authority.not_valid_after_utc for authority in found).timestamp()
    return TlsIdentity(certificate, key, authorities["tls_client_ca"], authorities["admin_client_ca"], expires)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _wrong(setting, f"{path} cannot be read: {error.strerror}") from None


def _certificates(setting: str, path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise _wrong(setting, f"{path} holds no whole PEM certificate") from None


def _public_key(path: Path, content: bytes) -> PublicKeyTypes:
    try:
        return load_pem_private_key(content, password=None).public_key()
    except TypeError:
        raise _wrong("tls_key", f"{path} is encrypted; give a key without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong("tls_key", f"{path} holds no whole PEM private key") from None


def _check_times(path: Path, leaf: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if now > leaf.not_valid_after_utc:
        raise _wrong("tls_cert", f"the certificate in {path} expired at {leaf.not_valid_after_utc.isoformat()}")
    if now < leaf.not_valid_before_utc:
        raise _wrong("tls_cert", f"the certificate in {path} begins only at {leaf.not_valid_before_utc.isoformat()}")


def _check_kind(path: Path, key: PublicKeyTypes) -> None:
    is_usable = isinstance(key, RSAPublicKey) or (isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES)
    if not is_usable:
        raise _wrong("tls_cert", f"gRPC clients cannot use the kind of key in {path}; take RSA, ECDSA P-256 or P-384")


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _wrong(setting: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"setting {setting}: {what}", field=setting)
