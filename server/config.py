"""Settings of the server: flags before environment (`TICKSERVE_*`) before file; every error names its setting."""

import contextlib
import os
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from mlops.tap import default_folder
from server.models.policy import parse_policy
from server.plan import DEFAULT_SHADOW_BOUNDS, ShadowBounds
from tickserve.address import is_unix, split_host
from tickserve.errors import ConfigurationError
from tickserve.home import default_name, home
from tickserve.listening.checks import check_addresses, check_authority, check_pair, check_tcp, split_list
from tickserve.listening.connections import DEFAULT_BOUNDS, ConnectionBounds
from tickserve.listening.tls import TlsFiles

_PREFIX = "TICKSERVE_"
#: Variables of the other commands.
_OTHERS = {"address"}
#: What those of the sidecar begin with.
_SIDECAR = "sidecar_"


class Settings(BaseSettings):
    """Everything an operator may set. `home` and `models` default below the state folder."""

    model_config = SettingsConfigDict(
        env_prefix="TICKSERVE_", env_ignore_empty=True, extra="ignore", frozen=True, validate_default=True
    )

    home: Path = Field(default_factory=home)
    models: Path = Field(default_factory=lambda data: data["home"] / "models")
    registry: str = ""
    artifacts: str = ""
    source: Literal["directory", "registry"] = Field(
        default_factory=lambda data: "registry" if data["registry"] else "directory"
    )
    server_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")] = Field(
        default_factory=lambda data: default_name(data["home"])
    )
    version_policy: dict[str, str] = {"*": "latest 1"}
    listen: Annotated[tuple[str, ...], NoDecode, Field(min_length=1)] = ("127.0.0.1:8500",)
    socket_mode: Annotated[str, Field(pattern="^0?[0-7]{3}$")] = "0660"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    admin_client_ca: Path | None = None
    admin: str = Field(default_factory=lambda data: f"unix:{data['home'] / 'admin.sock'}")
    http: str = "127.0.0.1:8501"
    engine: Literal["auto", "native", "python"] = "auto"
    workers: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=lambda: max(1, len(os.sched_getaffinity(0)) - 1)
    )
    cpus: Annotated[tuple[int, ...], NoDecode] = ()
    pool_threads: Annotated[int, Field(ge=1, le=64)] = 2
    max_in_flight: Annotated[int, Field(ge=1)] = 256
    max_in_flight_per_client: Annotated[int, Field(ge=0)] = 0
    max_message_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 4 << 20
    max_connections: Annotated[int, Field(ge=1)] = DEFAULT_BOUNDS.max_connections
    max_streams: Annotated[int, Field(ge=1)] = DEFAULT_BOUNDS.max_streams
    max_held_bytes: Annotated[int, Field(ge=1)] = DEFAULT_BOUNDS.max_held_bytes
    handshake_timeout_s: Annotated[float, Field(ge=0.1, le=120)] = DEFAULT_BOUNDS.handshake_timeout_s
    keepalive_s: Annotated[float, Field(ge=1, le=86_400)] = DEFAULT_BOUNDS.keepalive_s
    keepalive_timeout_s: Annotated[float, Field(ge=0.1, le=600)] = DEFAULT_BOUNDS.keepalive_timeout_s
    client_ping_interval_s: Annotated[float, Field(ge=0.1, le=3600)] = DEFAULT_BOUNDS.client_ping_interval_s
    connection_idle_s: Annotated[float, Field(ge=0, le=86_400)] = DEFAULT_BOUNDS.connection_idle_s
    connection_age_s: Annotated[float, Field(ge=0, le=864_000)] = DEFAULT_BOUNDS.connection_age_s
    poll_s: Annotated[float, Field(gt=0, le=60)] = Field(
        default_factory=lambda data: 0.2 if data["source"] == "registry" else 1.0
    )
    settle_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    drain_delay_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    tap: Path | Literal["off"] = Field(default_factory=lambda data: default_folder(data["home"]))
    tap_ring_bytes: Annotated[int, Field(ge=64 << 10, le=1 << 40)] = 8 << 20
    shadow_queue: Annotated[int, Field(ge=1, le=1 << 20)] = DEFAULT_SHADOW_BOUNDS.requests
    shadow_queue_bytes: Annotated[int, Field(ge=1024, le=1 << 40)] = DEFAULT_SHADOW_BOUNDS.size_bytes
    require_signature: bool = False
    trusted_keys: Path = Field(default_factory=lambda data: data["home"] / "keys")
    serve_rest: bool = False
    required_models: Annotated[tuple[str, ...], NoDecode] = ()
    loading_threads: Annotated[int, Field(ge=1, le=16)] = 2
    load_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    trial_load: bool = True
    memory_budget_mb: Annotated[int, Field(ge=0)] = Field(default_factory=lambda: default_memory_mb())
    cache_mb: Annotated[int, Field(ge=1)] = 4096
    breaker_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    breaker_run_factor: Annotated[float, Field(ge=0)] = 8.0
    breaker_requests: Annotated[int, Field(ge=1)] = 100
    breaker_window_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    breaker_action: Literal["previous", "halt"] = "previous"
    log_format: Literal["json", "console"] = "console"

    @field_validator("version_policy")
    @classmethod
    def _check_policies(cls, value: dict[str, str]) -> dict[str, str]:
        for policy in value.values():
            parse_policy(policy)
        return value

    _split = field_validator("listen", "required_models", mode="before")(split_list)

    @field_validator("cpus", mode="before")
    @classmethod
    def _split_cpus(cls, value: Any) -> Any:
        return tuple(value.replace(" ", "").split(",")) if isinstance(value, str) else value

    @field_validator("cpus")
    @classmethod
    def _check_cpus(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        here = sorted(os.sched_getaffinity(0))
        if not set(value) <= set(here):
            raise ValueError(f"this process may run on the CPUs {', '.join(map(str, here))} only")
        return value

    _check_addresses = field_validator("listen", "admin", "http")(check_addresses)
    _check_http = field_validator("http")(check_tcp)
    _check_pair = field_validator("tls_key")(check_pair)
    _check_authority = field_validator("tls_client_ca", "admin_client_ca")(check_authority)

    @field_validator("admin")
    @classmethod
    def _check_admin(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("admin_client_ca") is None and not (is_unix(value) or _is_loopback(value)):
            raise ValueError(
                "whoever reaches it operates the server: give tls_cert, tls_key and admin_client_ca, a loopback "
                "address, or unix:/path"
            )
        return value

    @field_validator("home", "models", "tls_cert", "tls_key", "tls_client_ca", "admin_client_ca", "trusted_keys")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        try:
            return None if value is None else value.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    @field_validator("tap")
    @classmethod
    def _absolute_tap(cls, value: Path | str) -> Path | str:
        return value if isinstance(value, str) else value.expanduser().absolute()

    def connection_bounds(self) -> ConnectionBounds:
        """What each connection is granted."""
        return ConnectionBounds(
            max_connections=self.max_connections,
            max_streams=self.max_streams,
            max_held_bytes=self.max_held_bytes,
            handshake_timeout_s=self.handshake_timeout_s,
            keepalive_s=self.keepalive_s,
            keepalive_timeout_s=self.keepalive_timeout_s,
            client_ping_interval_s=self.client_ping_interval_s,
            connection_idle_s=self.connection_idle_s,
            connection_age_s=self.connection_age_s,
            age_grace_s=self.grace_s,
        )

    def shadow_bounds(self) -> ShadowBounds:
        """How much may wait for the shadow thread."""
        return ShadowBounds(self.shadow_queue, self.shadow_queue_bytes)

    def tls_files(self) -> TlsFiles | None:
        """The files of TLS, or None where the listeners are plain."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca, self.admin_client_ca)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment; `load_settings` puts the file beneath both."""
        return init_settings, env_settings


def load_settings(file: Path | None, flags: dict[str, Any]) -> Settings:
    """Reads the settings.

    Parameters
    ----------
    file : Path or None
        A TOML file of settings by name.
    flags : dict[str, Any]
        Settings given on the command line; None means not given.

    Raises
    ------
    ConfigurationError
        Naming the setting, where it came from and what is expected.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    from_file = _read_file(file) if file is not None else {}
    # The environment outranks the file: what it sets is taken out of the file's part.
    environment = _read_environment()
    merged = {name: value for name, value in from_file.items() if name not in environment} | given
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        if name in given:
            origin = f"--{name.replace('_', '-')}"
        elif name in environment:
            origin = f"TICKSERVE_{name.upper()}"
        elif name in from_file:
            origin = str(file)
        else:
            origin = "by default"
        raise ConfigurationError(
            f"setting {name} ({origin}) is {first['input']!r}: {_lower(first['msg'])}", field=name
        ) from None


def _read_environment() -> set[str]:
    """The settings that the environment gives; an empty variable is none."""
    names = {key.upper().removeprefix(_PREFIX).lower() for key in os.environ if key.upper().startswith(_PREFIX)}
    own = {name for name in names if not name.startswith(_SIDECAR)}
    unknown = sorted(own - set(Settings.model_fields) - _OTHERS)
    if unknown:
        known = ", ".join(Settings.model_fields)
        variable = f"{_PREFIX}{unknown[0].upper()}"
        raise ConfigurationError(f"{variable} is no setting; known are: {known}", field=unknown[0])
    return {name for name in names if any(os.environ[k] for k in os.environ if k.upper() == _PREFIX + name.upper())}


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            content = tomllib.load(opened)
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {file}: {error.strerror}", field="config") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"the settings file {file} is no valid TOML: {error}", field="config") from None
    unknown = sorted(set(content) - set(Settings.model_fields))
    if unknown:
        known = ", ".join(Settings.model_fields)
        raise ConfigurationError(f"setting {unknown[0]} ({file}) is unknown; known are: {known}", field=unknown[0])
    return content


def default_memory_mb() -> int:
    """Three quarters of what this process may use: the machine's memory, or its control group's bound."""
    bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):
        # "max" where there is no bound.
        bounds.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(bounds) * 3 // 4 >> 20


def _is_loopback(address: str) -> bool:
    host, _ = split_host(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
