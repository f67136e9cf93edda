"""Certificate authorities made by openssl when a test runs, and what they sign."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tickserve.client import Tls

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_EXPIRED = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
_CONFIG = """
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    def move_to(self, certificate: Path, key: Path) -> None:
        """Replaces the two files, one after the other, each at once."""
        put(self.key, key)
        put(self.certificate, certificate)


class Authority:
    """Signs certificates for 127.0.0.1 and localhost that hold for a day."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        (self._folder / "openssl.cnf").write_text(_CONFIG)
        (self._folder / "index.txt").touch()
        self.certificate = self._folder / "ca.pem"
        self._openssl("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={name}")

    def sign(self, name: str, *, is_expired: bool = False) -> Signed:
        """A new key and its certificate."""
        names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
        self._openssl(
            "req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext", names
        )
        times = _EXPIRED if is_expired else ("-days", "1")
        signer = ("-config", "openssl.cnf", "-keyfile", "ca.key", "-cert", "ca.pem", "-create_serial")
        files = ("-in", f"{name}.csr", "-out", f"{name}.pem")
        self._openssl("ca", "-batch", "-notext", *signer, *times, *files)
        return Signed(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def client(self, own: Signed | None = None) -> Tls:
        """A client that trusts this authority, and shows a certificate of its own where it has one."""
        return Tls(self.certificate, own.certificate, own.key) if own else Tls(self.certificate)

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", *arguments], cwd=self._folder, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr


def put(source: Path, target: Path) -> None:
    """Copies a file into place at once."""
    beside = target.with_suffix(".new")
    shutil.copy(source, beside)
    beside.rename(target)
