"""Settings: flags before environment before file, and every error names its setting."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from server.config import Settings, load_settings
from tickserve.errors import ConfigurationError
from tickserve.home import home
from tickserve.listening.connections import ConnectionBounds
from tickserve.listening.tls import TlsFiles


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
        ({"admin": "unix:/" + "a" * 200}, "admin", "at most 107 bytes"),
        ({"engine": "cobol"}, "engine", "(--engine) is 'cobol'"),
        ({"grace_s": -1.0}, "grace_s", "(--grace-s) is -1.0"),
        ({"pool_threads": 0}, "pool_threads", "(--pool-threads) is 0"),
        ({"socket_mode": "0999"}, "socket_mode", "(--socket-mode) is '0999'"),
        ({"socket_mode": "1777"}, "socket_mode", "(--socket-mode) is '1777'"),
        ({"tls_cert": Path("/a.pem")}, "tls_key", "tls_cert and tls_key go together; give both or neither"),
        ({"tls_key": Path("/a.pem")}, "tls_key", "tls_cert and tls_key go together; give both or neither"),
        ({"tls_client_ca": Path("/a.pem")}, "tls_client_ca", "clients show certificates only over TLS"),
        ({"admin_client_ca": Path("/a.pem")}, "admin_client_ca", "clients show certificates only over TLS"),
        ({"admin": "0.0.0.0:1"}, "admin", "whoever reaches it operates the server"),
        ({"admin": "[::]:1"}, "admin", "whoever reaches it operates the server"),
        ({"admin": "db.example:1"}, "admin", "whoever reaches it operates the server"),
        ({"max_streams": 0}, "max_streams", "(--max-streams) is 0"),
        ({"keepalive_s": 0.0}, "keepalive_s", "(--keepalive-s) is 0.0"),
    ],
)
def test_wrong_flags_are_named(flags: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, flags)
    assert caught.value.field == field
    assert text in caught.value.message


def test_clients_authority_is_none_for_operators() -> None:
    tls = {"tls_cert": Path("/cert.pem"), "tls_key": Path("/key.pem"), "tls_client_ca": Path("/clients.pem")}
    with pytest.raises(ConfigurationError, match="whoever reaches it operates the server"):
        load_settings(None, tls | {"admin": "0.0.0.0:1"})
    assert load_settings(None, tls | {"admin": "0.0.0.0:1", "admin_client_ca": Path("/operators.pem")}).admin


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/a.sock"])
def test_operators_of_this_machine_need_no_certificate(address: str) -> None:
    assert load_settings(None, {"admin": address}).admin == address


def test_tls_files_are_below_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    files = load_settings(None, {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}).tls_files()
    assert files == TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert load_settings(None, {}).tls_files() is None


def test_every_bound_of_connections_can_be_set() -> None:
    bounds = {field.name: 7 for field in fields(ConnectionBounds) if field.name != "age_grace_s"}
    settings = load_settings(None, bounds | {"grace_s": 3.0})
    assert settings.connection_bounds() == ConnectionBounds(**bounds, age_grace_s=3.0)
    assert load_settings(None, {}).connection_bounds() == ConnectionBounds()


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


def test_environment_outranks_the_file_in_any_case_and_empty_is_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('http = "127.0.0.1:1"\ngrace_s = 3\n')
    monkeypatch.setenv("tickserve_http", "127.0.0.1:2")
    monkeypatch.setenv("TICKSERVE_GRACE_S", "")
    settings = load_settings(file, {})
    assert (settings.http, settings.grace_s) == ("127.0.0.1:2", 3.0)


def test_empty_home_is_the_same_for_server_and_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_HOME", "")
    assert load_settings(None, {}).home == home()


def test_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_LISTN", "127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="TICKSERVE_LISTN is no setting"):
        load_settings(None, {})


def test_home_of_an_unknown_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKSERVE_HOME", "~no-such-user-here/x")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, {})
    assert caught.value.field == "home"
    with pytest.raises(ConfigurationError):
        home()
