"""Settings of the sidecar: flags before environment (`TICKSERVE_SIDECAR_*`) before file; errors name the setting."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from mlops.tap import default_folder
from tickserve.errors import ConfigurationError
from tickserve.home import default_name, home
from tickserve.listening.checks import check_addresses, check_authority, check_pair, check_tcp, split_list
from tickserve.listening.tls import TlsFiles

PREFIX = "TICKSERVE_SIDECAR_"


class SidecarSettings(BaseSettings):
    """Everything an operator may set. The folder of state is the server's, by default `TICKSERVE_HOME`.

    `tap` is the folder that the servers write to, `log` where the prediction log goes. A segment of the log becomes
    Parquet once it has `segment_mb` or is `segment_s` old. Partitions older than `retention_days`, and the oldest
    ones where the log takes more than `log_mb`, are removed; 0 turns either off. What servers count goes to the
    registry in windows of `counts_window_s`, under the name `reporter`, and is kept for `counts_days`. With
    `rollouts` it decides on the registry's rollouts where no other sidecar does; one that is silent for `lease_s` is
    taken over from. `alert_matrix` is a file of alert rows in the place of the shipped ones; rows on the server's
    counters look at windows of `alert_window_s`. Alerts act on the registry, or where there is none on the server at
    `admin`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, validate_default=True
    )

    home: Path = Field(default_factory=home)
    tap: Path = Field(default_factory=lambda data: default_folder(data["home"]))
    log: Path = Field(default_factory=lambda data: data["home"] / "log")
    models: Path = Field(default_factory=lambda data: data["home"] / "models")
    registry: str = ""
    artifacts: str = ""
    trusted_keys: Path = Field(default_factory=lambda data: data["home"] / "keys")
    listen: Annotated[tuple[str, ...], NoDecode, Field(min_length=1)] = ("127.0.0.1:8502",)
    socket_mode: Annotated[str, Field(pattern="^0?[0-7]{3}$")] = "0660"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    http: str = "127.0.0.1:8503"
    poll_s: Annotated[float, Field(gt=0, le=60)] = 0.1
    chunk_mb: Annotated[int, Field(ge=1, le=1024)] = 8
    segment_mb: Annotated[int, Field(ge=1, le=4096)] = 32
    segment_s: Annotated[float, Field(gt=0, le=86_400)] = 900.0
    checkpoint_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    retention_days: Annotated[int, Field(ge=0)] = 30
    log_mb: Annotated[int, Field(ge=0)] = 16_384
    late_s: Annotated[float, Field(gt=0)] = 86_400.0
    counts: Literal["on", "off"] = "on"
    reporter: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")] = Field(
        default_factory=lambda data: default_name(data["home"])
    )
    counts_window_s: Annotated[float, Field(ge=0.1, le=300)] = 10.0
    counts_days: Annotated[float, Field(gt=0, le=3650)] = 1.0
    rollouts: Literal["on", "off"] = "on"
    lease_s: Annotated[float, Field(ge=0.5, le=60)] = 10.0
    alerts: Literal["on", "off"] = "on"
    alert_matrix: Path | None = None
    alert_webhook: str = ""
    alert_window_s: Annotated[float, Field(gt=0, le=300)] = 60.0
    admin: str = Field(default_factory=lambda data: f"unix:{data['home'] / 'admin.sock'}")
    log_format: Literal["json", "console"] = "console"

    _split = field_validator("listen", mode="before")(split_list)
    _check_addresses = field_validator("listen", "http")(check_addresses)
    _check_http = field_validator("http")(check_tcp)
    _check_pair = field_validator("tls_key")(check_pair)
    _check_authority = field_validator("tls_client_ca")(check_authority)

    @field_validator(
        "home", "tap", "log", "models", "tls_cert", "tls_key", "tls_client_ca", "trusted_keys", "alert_matrix"
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        try:
            return None if value is None else value.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    def tls_files(self) -> TlsFiles | None:
        """The files of TLS, or None where the listeners are plain."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment; `load_sidecar_settings` puts the file beneath both."""
        return init_settings, env_settings


def load_sidecar_settings(file: Path | None, flags: dict[str, Any]) -> SidecarSettings:
    """Reads the settings; `file` is TOML, and flags that are None are not given.

    Raises
    ------
    ConfigurationError
        Naming the setting, where it came from and what is expected.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    environment = _from_environment()
    from_file = _from_file(file) if file is not None else {}
    merged = {name: value for name, value in from_file.items() if name not in environment} | given
    try:
        return SidecarSettings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        if name in given:
            origin = f"--{name.replace('_', '-')}"
        elif name in environment:
            origin = PREFIX + name.upper()
        else:
            origin = str(file) if name in from_file else "by default"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(
            f"setting {name} ({origin}) is {first.get('input')!r}: {message[:1].lower()}{message[1:]}", field=name
        ) from None


def _from_environment() -> set[str]:
    names = {
        key[len(PREFIX) :].lower() for key, value in os.environ.items() if key.upper().startswith(PREFIX) and value
    }
    unknown = sorted(names - set(SidecarSettings.model_fields))
    if unknown:
        raise ConfigurationError(
            f"{PREFIX}{unknown[0].upper()} is no setting; known are: {', '.join(SidecarSettings.model_fields)}",
            field=unknown[0],
        )
    return names


def _from_file(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {file}: {error.strerror}", field="config") from None
    except ValueError as error:
        raise ConfigurationError(f"the settings file {file} is no valid TOML: {error}", field="config") from None
    unknown = sorted(set(content) - set(SidecarSettings.model_fields))
    if unknown:
        raise ConfigurationError(
            f"setting {unknown[0]} ({file}) is unknown; known are: {', '.join(SidecarSettings.model_fields)}",
            field=unknown[0],
        )
    return content
