"""Signing keys as files: `NAME.key` is private and its owner's alone, `NAME.pub` may be copied to who trusts it."""

import os
import re
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from mlops.package._files import read_file, sync_folder
from mlops.package.manifest import SIGNATURE_FILE
from mlops.package.signature import Signature, TrustedKeys, sign_digest, write_signature
from mlops.package.verify import read_files, verify_files
from tickserve.errors import ConfigurationError, PackageError

_PRIVATE, _PUBLIC = ".key", ".pub"
_MAX_BYTES = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class KeyFacts:
    """One key of a folder: its name, its public half in hex, and whether the private half is there too."""

    name: str
    public_key: str
    can_sign: bool


def new_key(folder: Path, name: str) -> KeyFacts:
    """Makes a key pair; the private file has mode 0600, and a folder that is made here 0700.

    Raises
    ------
    ConfigurationError
        Where the name is unfit or taken, or the folder cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _path(folder, name, _PRIVATE)
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        if _path(folder, name, _PUBLIC).exists():
            raise FileExistsError
        _write(_path(folder, name, _PRIVATE), private, 0o600)
        _write(_path(folder, name, _PUBLIC), public, 0o644)
        sync_folder(folder)
    except FileExistsError:
        raise ConfigurationError(
            f"{folder} has a key {name!r} already; keys are never overwritten, choose another name", field="name"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror}", field="keys") from None
    return KeyFacts(name, key.public_key().public_bytes_raw().hex(), can_sign=True)


def list_keys(folder: Path) -> list[KeyFacts]:
    """Every key of a folder by name, none where there is no such folder. ConfigurationError as `trusted_keys`."""
    trusted = trusted_keys(folder) if folder.exists() else TrustedKeys({}, folder)
    return sorted(
        (KeyFacts(name, key, (folder / f"{name}{_PRIVATE}").exists()) for key, name in trusted.names.items()),
        key=lambda facts: facts.name,
    )


def trusted_keys(folder: Path) -> TrustedKeys:
    """The public keys of a folder: whoever can write there decides what is trusted, so nobody else may.

    Raises
    ------
    ConfigurationError
        Where the folder or a file cannot be read, is no Ed25519 public key, or may be written by others than its owner.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == _PUBLIC)
    except OSError as error:
        raise ConfigurationError(
            f"the folder of keys {folder} cannot be read: {error.strerror}", field="trusted_keys"
        ) from None
    _refuse_modes(folder, 0o022, "may be written by others, who could add a key to trust", "go-w")
    names: dict[str, str] = {}
    for path in paths:
        data = _read(path)
        _refuse_modes(path, 0o022, "may be written by others", "go-w")
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigurationError(f"{path} is no Ed25519 public key in PEM", field=path.name)
        names[key.public_bytes_raw().hex()] = path.stem
    return TrustedKeys(names, folder)


def load_private_key(folder: Path, name: str) -> Ed25519PrivateKey:
    """The private half of a key.

    Raises
    ------
    ConfigurationError
        Where there is none, it is no Ed25519 private key, or others than its owner may read it.
    """
    path = _path(folder, name, _PRIVATE)
    data = _read(path)
    _refuse_modes(path, 0o077, "may be read or written by others; they may have signed with it", "go-rwx")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} is no Ed25519 private key in PEM without a passphrase", field=path.name)
    return key


def sign_package(package_dir: Path, key: Ed25519PrivateKey) -> Signature:
    """Verifies a package and puts its signature beside its files, in the place of an older one.

    Raises
    ------
    PackageError
        Where the package does not verify, or the signature cannot be written.
    """
    # A damaged signature is no reason not to make a good one.
    files = {name: data for name, data in read_files(package_dir).items() if name != SIGNATURE_FILE}
    signature = sign_digest(verify_files(package_dir, files).digest, key)
    # Beside the folder, because a further file in it would make the package a damaged one to whoever reads it now.
    staged = package_dir.absolute().parent / f".signature-{uuid.uuid4().hex}"
    try:
        _write(staged, write_signature(signature), 0o644)
        staged.rename(package_dir / SIGNATURE_FILE)
        sync_folder(package_dir)
    except OSError as error:
        raise PackageError(f"{package_dir} cannot be written: {error.strerror}", field=SIGNATURE_FILE) from None
    finally:
        staged.unlink(missing_ok=True)
    return signature


def _path(folder: Path, name: str, suffix: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"key name {name!r} must be 1 to 64 letters, digits, '.', '_' and '-' and start with a letter or digit",
            field="name",
        )
    return folder / f"{name}{suffix}"


def _read(path: Path) -> bytes:
    try:
        return read_file(path, _MAX_BYTES)
    except PackageError as error:
        raise ConfigurationError(error.message, field=path.name) from None


def _refuse_modes(path: Path, forbidden: int, why: str, remedy: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & forbidden:
        raise ConfigurationError(f"{path} has mode {mode:04o}: it {why} (chmod {remedy} {path})", field=path.name)


def _write(path: Path, data: bytes, mode: int) -> None:
    """A new file of that mode, whatever the umask, on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
