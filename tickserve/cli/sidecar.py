"""`tickserve sidecar`: follows the tap, keeps the prediction log and takes outcomes until it is told to stop."""

from pathlib import Path
from typing import Annotated

import typer

from tickserve.errors import ConfigurationError


def sidecar(
    home: Annotated[Path | None, typer.Option(help="Folder of state (TICKSERVE_HOME).", show_default=False)] = None,
    tap: Annotated[Path | None, typer.Option(help="Folder that the servers record to.", show_default=False)] = None,
    log: Annotated[Path | None, typer.Option(help="Folder of the prediction log.", show_default=False)] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(help="Where outcomes are reported, host:port or unix:/path.", show_default=False),
    ] = None,
    http: Annotated[str | None, typer.Option(help="Address of /metrics, /livez, /readyz.", show_default=False)] = None,
    registry: Annotated[str | None, typer.Option(help="URL of the registry.", show_default=False)] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="Folder or URL of the registry's files.", show_default=False)
    ] = None,
    models: Annotated[Path | None, typer.Option(help="Folder of <model>/<version>/.", show_default=False)] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate with its chain, PEM; TLS on TCP listeners.", show_default=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the certificate, PEM.", show_default=False)] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Authorities of clients, PEM; clients must show one.", show_default=False)
    ] = None,
    retention_days: Annotated[int | None, typer.Option(help="Older records go.", show_default=False)] = None,
    log_mb: Annotated[
        int | None, typer.Option(help="Where the log takes more, the oldest go.", show_default=False)
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings.", show_default=False)] = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Print the settings and exit.")] = False,
) -> None:
    """Keep the prediction log. Flags outrank TICKSERVE_SIDECAR_* variables, which outrank the file."""
    from mlops.sidecar.settings import load_sidecar_settings

    settings = load_sidecar_settings(
        config,
        {
            "home": home,
            "tap": tap,
            "log": log,
            "listen": tuple(listen) if listen else None,
            "http": http,
            "registry": registry,
            "artifacts": artifacts,
            "models": models,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "tls_client_ca": tls_client_ca,
            "retention_days": retention_days,
            "log_mb": log_mb,
            "log_format": log_format,
        },
    )
    try:
        from mlops.sidecar.app import serve
        from mlops.sidecar.wiring.alerts import check_alerts
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is not installed; `pip install 'tickserve[sidecar]'` brings it", field="sidecar"
        ) from None
    if check_config:
        check_alerts(settings)
        typer.echo(settings.model_dump_json(indent=2))
        return
    serve(settings)
