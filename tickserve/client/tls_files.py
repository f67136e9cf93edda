"""The files that `Tls` names, read."""

from dataclasses import dataclass
from pathlib import Path

from tickserve.client.transport import Tls
from tickserve.errors import ConfigurationError

_CERTIFICATE, _KEY = b"CERTIFICATE", b"PRIVATE KEY"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM of each file; None where it is not given. The certificate and the key are both given, or neither."""

    authorities: bytes | None
    certificate: bytes | None
    key: bytes | None


def read_tls(tls: Tls) -> TlsFiles:
    """Reads the files. Raises ConfigurationError where they cannot be read or do not go together."""
    if (tls.certificate_file is None) != (tls.key_file is None):
        raise ConfigurationError("tls: certificate_file and key_file go together; give both or neither", field="tls")
    return TlsFiles(
        authorities=_read(tls.ca_file, "ca_file", _CERTIFICATE),
        certificate=_read(tls.certificate_file, "certificate_file", _CERTIFICATE),
        key=_read(tls.key_file, "key_file", _KEY),
    )


def _read(path: Path | None, name: str, what: bytes) -> bytes | None:
    if path is None:
        return None
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"tls: {name} cannot be read: {error}", field=f"tls.{name}") from None
    # grpc takes anything, and says at the first call that no server answered.
    if what not in text:
        raise ConfigurationError(f"tls: {name} {path} is not PEM of a {what.decode().lower()}", field=f"tls.{name}")
    return text
