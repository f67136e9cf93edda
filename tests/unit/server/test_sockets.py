"""Unix sockets: what a dead server left is removed, a live one is left alone, and the mode is as asked."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from stat import S_IMODE
from tempfile import TemporaryDirectory

import pytest

from tickserve.errors import ConfigurationError
from tickserve.listening.sockets import socket_file


@pytest.fixture
def path() -> Iterator[Path]:
    """Short enough for a Unix socket; in a folder that does not exist yet."""
    with TemporaryDirectory(prefix="ts-") as folder:
        yield Path(folder) / "run" / "data.sock"


def bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_socket_is_closed_to_others_until_it_has_its_mode(path: Path, mode: int) -> None:
    with socket_file(f"unix:{path}", mode=mode, setting="listen"), closing(bind(path)):
        assert S_IMODE(path.stat().st_mode) == 0o700
    assert S_IMODE(path.stat().st_mode) == mode


def test_socket_of_a_killed_server_is_removed(path: Path) -> None:
    path.parent.mkdir()
    bind(path).close()
    assert path.exists()
    with socket_file(f"unix:{path}", mode=0o600, setting="listen"):
        assert not path.exists()
        bind(path).close()


def test_socket_of_a_running_server_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with (
        closing(bind(path)),
        pytest.raises(ConfigurationError, match="another server answers on") as caught,
        socket_file(f"unix:{path}", mode=0o600, setting="admin"),
    ):
        pytest.fail("the way was made")
    assert caught.value.field == "admin"
    assert path.exists()


def test_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    with (
        pytest.raises(ConfigurationError, match="exists and is no socket"),
        socket_file(f"unix:{path}", mode=0o600, setting="listen"),
    ):
        pytest.fail("the way was made")
    assert path.read_text() == "mine"


def test_folder_that_cannot_be_made_is_named(path: Path) -> None:
    path.parent.parent.joinpath("run").write_text("in the way")
    with (
        pytest.raises(ConfigurationError, match=rf"listen: {path}: ") as caught,
        socket_file(f"unix:{path}", mode=0o600, setting="listen"),
    ):
        pytest.fail("the way was made")
    assert caught.value.field == "listen"
