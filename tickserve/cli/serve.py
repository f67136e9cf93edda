"""`tickserve serve`: runs a server until it is told to stop."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    models: Annotated[Path | None, typer.Option(help="Folder of <model>/<version>/.", show_default=False)] = None,
    source: Annotated[
        str | None, typer.Option(help="Where desired state comes from: directory or registry.", show_default=False)
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="URL of the registry to serve from; by default TICKSERVE_HOME's.", show_default=False),
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="Folder or URL of the registry's files.", show_default=False)
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(help="Data listener, host:port or unix:/path; may be repeated.", show_default=False),
    ] = None,
    http: Annotated[str | None, typer.Option(help="Address of /metrics, /livez, /readyz.", show_default=False)] = None,
    admin: Annotated[str | None, typer.Option(help="Admin listener.", show_default=False)] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate with its chain, PEM; TLS on TCP listeners.", show_default=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the certificate, PEM.", show_default=False)] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Authorities of clients, PEM; clients must show one.", show_default=False)
    ] = None,
    admin_client_ca: Annotated[
        Path | None, typer.Option(help="Authorities of operators on a TCP admin listener, PEM.", show_default=False)
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of state (TICKSERVE_HOME).", show_default=False)] = None,
    engine: Annotated[str | None, typer.Option(help="auto, native or python.", show_default=False)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads of the native engine that serve.", show_default=False)
    ] = None,
    cpus: Annotated[
        str | None, typer.Option(help="CPUs of those threads, such as 2,3; in turn.", show_default=False)
    ] = None,
    serve_rest: Annotated[
        bool | None, typer.Option("--serve-rest", help="Start although a model cannot be served.", show_default=False)
    ] = None,
    grace_s: Annotated[float | None, typer.Option(help="Time to answer what is in flight.", show_default=False)] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings.", show_default=False)] = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Print the settings and exit.")] = False,
) -> None:
    """Serve the models of a folder, or of a registry. Flags outrank TICKSERVE_* variables, which outrank the file."""
    from server.config import load_settings

    settings = load_settings(
        config,
        {
            "home": home,
            "models": models,
            "source": source,
            "registry": registry,
            "artifacts": artifacts,
            "listen": tuple(listen) if listen else None,
            "http": http,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "tls_client_ca": tls_client_ca,
            "admin_client_ca": admin_client_ca,
            "admin": admin,
            "engine": engine,
            "workers": workers,
            "cpus": cpus,
            "serve_rest": serve_rest,
            "grace_s": grace_s,
            "log_format": log_format,
        },
    )
    if check_config:
        typer.echo(settings.model_dump_json(indent=2))
        return
    from server.app import serve as run

    run(settings)
