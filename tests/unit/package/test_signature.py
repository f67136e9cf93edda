"""Signatures: a good one is read back, and every altered, foreign or missing one is refused with its reason."""

import json
import re
from pathlib import Path

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mlops.package import (
    MODEL_FILE,
    SIGNATURE_FILE,
    TrustedKeys,
    add_version,
    read_package,
    read_signature,
    require_signature,
    sign_digest,
    sign_package,
    write_signature,
)
from tests.support.packages import flip_byte
from tests.unit.package.builders import build_small, copy_as
from tickserve.errors import Code, DamagedPackageError, PackageError

ROOT = Path(__file__).resolve().parents[3]
DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#: The first key of RFC 8032, section 7.1.
KEY = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


@pytest.fixture
def signed(package: Path, tmp_path: Path) -> Path:
    """A signed copy."""
    folder = copy_as(package, tmp_path / "signed")
    sign_package(folder, KEY)
    return folder


def trusted(*keys: str) -> TrustedKeys:
    return TrustedKeys({key: f"key-{place}" for place, key in enumerate(keys)}, Path("/keys"))


def test_test_vector_of_the_manual_is_what_is_written() -> None:
    [vector] = re.findall(
        r'^\{"algorithm":"Ed25519".*\}$', (ROOT / "docs/formats/package.md").read_text(), re.MULTILINE
    )
    assert write_signature(sign_digest(DIGEST, KEY)).decode() == vector
    assert read_signature(vector.encode(), DIGEST).public_key == PUBLIC


def test_signing_keeps_the_digest_and_is_read_back(package: Path, signed: Path) -> None:
    found = read_package(signed)
    assert found.digest == package.name
    assert found.signature is not None
    assert require_signature(found.digest, found.signature, trusted(PUBLIC)) == "key-0"
    assert read_package(package).signature is None


def test_unsigned_package_is_refused_where_a_signature_is_required(package: Path) -> None:
    found = read_package(package)
    with pytest.raises(PackageError, match="is not signed") as caught:
        require_signature(found.digest, found.signature, trusted(PUBLIC))
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert caught.value.field == SIGNATURE_FILE


def test_unknown_key_is_refused_and_the_trusted_ones_are_named(signed: Path) -> None:
    found = read_package(signed)
    with pytest.raises(PackageError, match=r"d75a980182b10ab7, which is not trusted; trusted keys in /keys: key-0"):
        require_signature(found.digest, found.signature, trusted("00" * 32))
    with pytest.raises(PackageError, match="none"):
        require_signature(found.digest, found.signature, trusted())


def test_signature_of_another_package_is_refused(signed: Path, tmp_path: Path) -> None:
    other = copy_as(build_small(tmp_path / "built", description="another"), tmp_path / "other")
    (other / SIGNATURE_FILE).write_bytes((signed / SIGNATURE_FILE).read_bytes())
    with pytest.raises(DamagedPackageError, match="did not sign digest") as caught:
        read_package(other)
    assert caught.value.code == Code.DATA_LOSS


def test_signature_over_the_bare_digest_is_none_of_a_package() -> None:
    forged = sign_digest(DIGEST, KEY).model_copy(update={"signature": KEY.sign(bytes.fromhex(DIGEST)).hex()})
    with pytest.raises(DamagedPackageError, match="did not sign"):
        read_signature(write_signature(forged), DIGEST)


def test_any_flipped_byte_of_the_signature_file_is_found() -> None:
    data = write_signature(sign_digest(DIGEST, KEY))
    for place in range(len(data)):
        for mask in (0x01, 0x20, 0xFF):
            broken = bytearray(data)
            broken[place] ^= mask
            with pytest.raises(DamagedPackageError):
                read_signature(bytes(broken), DIGEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": "00" * 63},
        {"signature": "00" * 65},
        {"signature": "00" * 64},
        {"public_key": PUBLIC[:-2]},
        {"public_key": PUBLIC + "00"},
        {"public_key": PUBLIC.upper()},
        {"public_key": "ff" * 32},
        {"algorithm": "RSA"},
        {"format": 2},
        {"extra": 1},
    ],
)
def test_other_lengths_and_entries_are_refused(changes: dict[str, object]) -> None:
    entries = json.loads(write_signature(sign_digest(DIGEST, KEY))) | changes
    with pytest.raises(DamagedPackageError, match=r"signature\.json"):
        read_signature(rfc8785.dumps(entries), DIGEST)


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b"x" * 100])
def test_file_that_is_no_signature_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedPackageError):
        read_signature(data, DIGEST)


def test_signature_in_another_form_is_refused() -> None:
    data = write_signature(sign_digest(DIGEST, KEY))
    with pytest.raises(DamagedPackageError, match="canonical"):
        read_signature(data.replace(b":1,", b": 1,"), DIGEST)


def test_oversized_or_linked_signature_is_refused(signed: Path, tmp_path: Path) -> None:
    file = signed / SIGNATURE_FILE
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(DamagedPackageError, match="regular file"):
        read_package(signed)
    file.unlink()
    file.write_bytes(elsewhere.read_bytes() + b" " * 4096)
    with pytest.raises(DamagedPackageError, match="at most"):
        read_package(signed)


def test_damaged_package_is_not_signed_and_a_damaged_signature_is_replaced(signed: Path) -> None:
    flip_byte(signed / SIGNATURE_FILE)
    sign_package(signed, KEY)
    assert read_package(signed).signature is not None
    flip_byte(signed / MODEL_FILE)
    (signed / SIGNATURE_FILE).unlink()
    with pytest.raises(DamagedPackageError):
        sign_package(signed, KEY)
    assert not (signed / SIGNATURE_FILE).exists()


def test_signing_leaves_nothing_else_behind(signed: Path) -> None:
    assert [path.name for path in signed.parent.iterdir()] == ["signed"]


def test_signature_goes_along_into_a_folder_of_models(signed: Path, tmp_path: Path) -> None:
    _, version = add_version(tmp_path / "models", signed)
    assert read_package(version).signature == read_package(signed).signature
