"""Settings of the server: flags before environment (`TICKSERVE_*`) before file; every error names its setting."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from tickserve.errors import ConfigurationError
from tickserve.home import home

#: What sun_path holds, less the terminating zero.
_MAX_SOCKET_PATH_BYTES = 107


class Settings(BaseSettings):
    """Everything an operator may set. `home` and `models` default below the state folder."""

    model_config = SettingsConfigDict(env_prefix="TICKSERVE_", extra="ignore", frozen=True, validate_default=True)

    home: Path = Field(default_factory=home)
    models: Path = Field(default_factory=lambda data: data["home"] / "models")
    listen: Annotated[tuple[str, ...], NoDecode, Field(min_length=1)] = ("127.0.0.1:8500",)
    admin: str = Field(default_factory=lambda data: f"unix:{data['home'] / 'admin.sock'}")
    http: str = "127.0.0.1:8501"
    engine: Literal["auto", "python"] = "auto"
    pool_threads: Annotated[int, Field(ge=1, le=64)] = 2
    max_in_flight: Annotated[int, Field(ge=1)] = 256
    max_message_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 4 << 20
    poll_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    drain_delay_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    serve_rest: bool = False
    log_format: Literal["json", "console"] = "console"

    @field_validator("listen", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("listen", "admin", "http")
    @classmethod
    def _check_addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for address in (value,) if isinstance(value, str) else value:
            _check_address(address)
        return value

    @field_validator("http")
    @classmethod
    def _check_http(cls, value: str) -> str:
        if value.startswith("unix:"):
            raise ValueError("must be host:port, a Unix socket is not offered")
        return value

    @field_validator("home", "models")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

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
    environment = {name for name in Settings.model_fields if f"TICKSERVE_{name.upper()}" in os.environ}
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


def _check_address(address: str) -> None:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{address!r} must be unix:/absolute/path")
        if len(path.encode()) > _MAX_SOCKET_PATH_BYTES:
            raise ValueError(
                f"the socket path {path!r} is longer than {_MAX_SOCKET_PATH_BYTES} bytes; choose a shorter one"
            )
        return
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} must be host:port or unix:/path")


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
