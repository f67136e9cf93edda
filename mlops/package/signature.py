"""Signatures of packages: Ed25519 over the digest, so that who vouched for a package can be checked where it is loaded.

The signature lies beside the package's files as signature.json and outside of the digest, so that signing changes no
package's identity. See docs/formats/package.md.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError

from mlops.package.manifest import SIGNATURE_FILE, Frozen, explain
from tickserve.errors import DamagedPackageError, PackageError

#: Before the digest in what is signed, so that no signature made for anything else fits a package.
_CONTEXT = b"tickserve package\0"


class Signature(Frozen):
    """What signature.json holds: the key as its 32 bytes and the signature as its 64, both in hex."""

    format: Literal[1] = 1
    algorithm: Literal["Ed25519"] = "Ed25519"
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys that may vouch for packages, by their hex, each with a name for people; `origin` says where from."""

    names: dict[str, str]
    origin: Path


def sign_digest(digest: str, key: Ed25519PrivateKey) -> Signature:
    """Signs a package's digest, 64 hex digits."""
    return Signature(public_key=key.public_key().public_bytes_raw().hex(), signature=key.sign(_message(digest)).hex())


def write_signature(signature: Signature) -> bytes:
    """The bytes of signature.json, canonical."""
    return rfc8785.dumps(signature.model_dump(mode="json"))


def read_signature(data: bytes, digest: str) -> Signature:
    """Reads signature.json and holds it against the digest of the package that it lies beside.

    Raises
    ------
    DamagedPackageError
        Where it has another form or length, or its key did not sign this digest. Whether that key is trusted is another
        question: see `require_signature`.
    """
    try:
        found = Signature.model_validate_json(data)
    except ValidationError as error:
        reason = explain(error, SIGNATURE_FILE)
        raise DamagedPackageError(reason.message, field=SIGNATURE_FILE) from None
    if rfc8785.dumps(json.loads(data)) != data:
        raise DamagedPackageError(
            f"{SIGNATURE_FILE} is not in canonical form (RFC 8785): it was edited or damaged; sign the package again",
            field=SIGNATURE_FILE,
        )
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.public_key))
        key.verify(bytes.fromhex(found.signature), _message(digest))
    except (InvalidSignature, ValueError):
        raise DamagedPackageError(
            f"{SIGNATURE_FILE}: key {found.public_key[:16]} did not sign digest {digest}: package or signature was "
            "altered; sign what was really released",
            field=SIGNATURE_FILE,
        ) from None
    return found


def require_signature(digest: str, signature: Signature | None, trusted: TrustedKeys) -> str:
    """The name of the trusted key that signed a package. `signature` is one that `read_signature` accepted.

    Raises
    ------
    PackageError
        Where there is no signature, or its key is not among the trusted ones.
    """
    if signature is None:
        raise PackageError(
            f"package {digest} is not signed, and a signature is required; sign it (tickserve keys sign)",
            field=SIGNATURE_FILE,
        )
    name = trusted.names.get(signature.public_key)
    if name is None:
        known = ", ".join(sorted(trusted.names.values())) or "none"
        raise PackageError(
            f"package {digest} is signed by key {signature.public_key[:16]}, which is not trusted; trusted keys in "
            f"{trusted.origin}: {known}",
            field=SIGNATURE_FILE,
        )
    return name


def _message(digest: str) -> bytes:
    return _CONTEXT + bytes.fromhex(digest)
