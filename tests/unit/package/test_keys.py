"""Signing keys: private ones are their owner's alone, trusted ones nobody else may add to; `tickserve keys`."""

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from mlops.package import list_keys, load_private_key, new_key, read_package, require_signature, trusted_keys
from tests.unit.package.builders import copy_as
from tickserve.cli.keys import app
from tickserve.errors import ConfigurationError

RUNNER = CliRunner()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys"


def test_new_key_can_sign_and_is_trusted_where_it_was_made(keys: Path) -> None:
    made = new_key(keys, "ann")
    assert load_private_key(keys, "ann").public_key().public_bytes_raw().hex() == made.public_key
    assert trusted_keys(keys).names == {made.public_key: "ann"}
    assert list_keys(keys) == [made]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_private_key_is_for_its_owner_alone_whatever_the_umask(keys: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        new_key(keys, "ann")
    finally:
        os.umask(before)
    assert mode(keys / "ann.key") == 0o600
    assert mode(keys / "ann.pub") == 0o644
    assert mode(keys) & 0o077 == 0


def test_keys_are_never_overwritten(keys: Path) -> None:
    new_key(keys, "ann")
    before = (keys / "ann.key").read_bytes()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        new_key(keys, "ann")
    (keys / "ann.key").unlink()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        new_key(keys, "ann")
    assert before
    assert not (keys / "ann.key").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/key", ".hidden", "a b", "x" * 65])
def test_unfit_names_are_refused(keys: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="key name"):
        new_key(keys, name)
    with pytest.raises(ConfigurationError, match="key name"):
        load_private_key(keys, name)
    assert not keys.exists()


@pytest.mark.parametrize("wrong", [0o640, 0o604, 0o620, 0o666])
def test_private_key_that_others_may_read_is_not_used(keys: Path, wrong: int) -> None:
    new_key(keys, "ann")
    (keys / "ann.key").chmod(wrong)
    with pytest.raises(ConfigurationError, match=rf"mode {wrong:04o}.*chmod go-rwx"):
        load_private_key(keys, "ann")


@pytest.mark.parametrize("wrong", [0o664, 0o646])
def test_public_key_that_others_may_write_is_not_trusted(keys: Path, wrong: int) -> None:
    new_key(keys, "ann")
    (keys / "ann.pub").chmod(wrong)
    with pytest.raises(ConfigurationError, match="chmod go-w"):
        trusted_keys(keys)


def test_folder_that_others_may_write_is_not_trusted(keys: Path) -> None:
    new_key(keys, "ann")
    keys.chmod(0o777)
    with pytest.raises(ConfigurationError, match="add a key"):
        trusted_keys(keys)


def test_missing_folder_and_missing_key_are_told(keys: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        trusted_keys(keys)
    assert list_keys(keys) == []
    with pytest.raises(ConfigurationError, match="is missing"):
        load_private_key(keys, "ann")


def test_link_is_no_key(keys: Path, tmp_path: Path) -> None:
    new_key(keys, "ann")
    (keys / "ann.pub").rename(tmp_path / "elsewhere")
    (keys / "ann.pub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="regular file"):
        trusted_keys(keys)


def test_keys_of_another_kind_are_refused(keys: Path) -> None:
    new_key(keys, "ann")
    other = ec.generate_private_key(ec.SECP256R1())
    (keys / "ann.key").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigurationError, match="no Ed25519 private key"):
        load_private_key(keys, "ann")
    for data in (other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), b"nothing"):
        (keys / "ann.pub").write_bytes(data)
        with pytest.raises(ConfigurationError, match="no Ed25519 public key"):
            trusted_keys(keys)


def test_command_line_makes_lists_and_signs(keys: Path, package: Path, tmp_path: Path) -> None:
    folder = copy_as(package, tmp_path / "copy")
    made = json.loads(RUNNER.invoke(app, ["new", "ann", "--keys", str(keys), "--json"]).stdout)
    (keys / "bob.pub").write_bytes((keys / "ann.pub").read_bytes())
    (keys / "ann.pub").unlink()
    listed = json.loads(RUNNER.invoke(app, ["list", "--keys", str(keys), "--json"]).stdout)
    assert listed == [{"name": "bob", "public_key": made["public_key"], "can_sign": False}]

    signed = json.loads(RUNNER.invoke(app, ["sign", str(folder), "--key", "ann", "--keys", str(keys), "--json"]).stdout)
    assert signed == {"digest": package.name, "key": "ann", "public_key": made["public_key"]}
    assert require_signature(package.name, read_package(folder).signature, trusted_keys(keys)) == "bob"


def test_keys_lie_in_the_state_folder(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_HOME", str(keys.parent))
    assert RUNNER.invoke(app, ["new", "ann"]).exit_code == 0
    assert (keys / "ann.key").exists()
    assert "ann" in RUNNER.invoke(app, ["list"]).stdout
