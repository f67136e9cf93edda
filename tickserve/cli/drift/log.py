"""Options of the commands that read a prediction log, and what they read from."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tickserve.errors import ConfigurationError

if TYPE_CHECKING:
    from mlops.package import Package
    from mlops.report import Sources

Home = Annotated[Path | None, typer.Option(help="Folder of state (TICKSERVE_HOME).", show_default=False)]
Log = Annotated[
    Path | None, typer.Option(help="Folder of the prediction log, by default log/ in it.", show_default=False)
]
Model = Annotated[str | None, typer.Option(help="This model alone.", show_default=False)]
Models = Annotated[Path | None, typer.Option(help="Folder of <model>/<version>/.", show_default=False)]
Registry = Annotated[str | None, typer.Option(help="URL of the registry.", show_default=False)]
Artifacts = Annotated[str | None, typer.Option(help="Folder or URL of the registry's files.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def sources(
    *, home: Path | None, log: Path | None, models: Path | None, registry: str | None, artifacts: str | None
) -> "Sources":
    """What the sidecar with these settings wrote; ConfigurationError where there is no log."""
    from mlops.report import Sources
    from mlops.sidecar.packages import PackageFinder
    from mlops.sidecar.settings import load_sidecar_settings

    settings = load_sidecar_settings(
        None, {"home": home, "log": log, "models": models, "registry": registry, "artifacts": artifacts}
    )
    if not settings.log.is_dir():
        raise ConfigurationError(
            f"there is no prediction log at {settings.log}; `tickserve sidecar` writes one, --log names another",
            field="log",
        )
    packages = PackageFinder(
        settings.home, settings.models, settings.registry, settings.artifacts, settings.trusted_keys
    )

    def find(model: str, version: str, digest: str) -> "Package | None":
        # What is logged meanwhile must not stand in front of JSON.
        with contextlib.redirect_stdout(sys.stderr):
            return packages.find(model, version, digest)

    return Sources(settings.log, settings.log / "tables" / "drift", find, settings.home / "alerts")
