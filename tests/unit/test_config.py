"""Settings: flags before environment before file, and every error names its setting."""

from pathlib import Path
from typing import Any

import pytest

from server.config import Settings, load_settings
from tickserve.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TICKSERVE_{name.upper()}", raising=False)
    monkeypatch.setenv("TICKSERVE_HOME", str(tmp_path))


def test_flag_outranks_environment_outranks_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('grace_s = 1\npool_threads = 3\nmax_in_flight = 7\nlisten = ["127.0.0.1:1", "unix:/run/a.sock"]\n')
    monkeypatch.setenv("TICKSERVE_GRACE_S", "2")
    monkeypatch.setenv("TICKSERVE_POOL_THREADS", "4")
    settings = load_settings(file, {"grace_s": 3.0, "pool_threads": None})
    assert (settings.grace_s, settings.pool_threads, settings.max_in_flight) == (3.0, 4, 7)
    assert settings.listen == ("127.0.0.1:1", "unix:/run/a.sock")


def test_paths_default_below_home(tmp_path: Path) -> None:
    settings = load_settings(None, {})
    assert settings.models == tmp_path / "models"
    assert settings.admin == f"unix:{tmp_path / 'admin.sock'}"
    other = load_settings(None, {"home": tmp_path / "other"})
    assert other.models == tmp_path / "other" / "models"


def test_several_listeners_come_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_LISTEN", "127.0.0.1:1, unix:/run/a.sock")
    assert load_settings(None, {}).listen == ("127.0.0.1:1", "unix:/run/a.sock")


@pytest.mark.parametrize(
    ("flags", "field", "text"),
    [
        ({"http": "8501"}, "http", "setting http (--http) is '8501': '8501' must be host:port or unix:/path"),
        ({"http": "unix:/a"}, "http", "a Unix socket is not offered"),
        ({"listen": ("nonsense",)}, "listen", "'nonsense' must be host:port or unix:/path"),
        ({"listen": ("127.0.0.1:99999",)}, "listen", "must be host:port"),
        ({"admin": "unix:relative"}, "admin", "must be unix:/absolute/path"),
        ({"admin": "unix:/" + "a" * 200}, "admin", "longer than 107 bytes"),
        ({"engine": "cobol"}, "engine", "(--engine) is 'cobol'"),
        ({"grace_s": -1.0}, "grace_s", "(--grace-s) is -1.0"),
        ({"pool_threads": 0}, "pool_threads", "(--pool-threads) is 0"),
    ],
)
def test_wrong_flags_are_named(flags: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, flags)
    assert caught.value.field == field
    assert text in caught.value.message


def test_wrong_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_POLL_S", "often")
    with pytest.raises(ConfigurationError, match=r"setting poll_s \(TICKSERVE_POLL_S\) is 'often'"):
        load_settings(None, {})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("grace = 1\n", "setting grace ("),
        ("grace_s =\n", "is no valid TOML"),
        ('grace_s = "soon"\n', "setting grace_s ("),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, {})
    assert text in caught.value.message
    assert str(file) in caught.value.message


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the settings file"):
        load_settings(tmp_path / "none.toml", {})
