"""Commands that prove, tidy and move a registry."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from tickserve.cli.models.options import (
    Actor,
    Artifacts,
    Json,
    ModelName,
    Reason,
    Reference,
    RegistryUrl,
    author,
    opened,
    opened_or_made,
    print_json,
    print_table,
)

#: A century; dates before the year 1 do not exist.
_LONGEST_DAYS = 36_525


def verify(
    expected_head: Annotated[
        str | None, typer.Option(help="Head of an earlier verification, kept elsewhere.", show_default=False)
    ] = None,
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Check the audit chain, every row of every table and every stored file. Exit 1 where anything is wrong."""
    with opened(registry, artifacts) as found:
        result = found.verify(expected_head)
    if as_json:
        print_json(result)
    elif result.findings:
        print_table(("where", "what"), [(finding.place, finding.what) for finding in result.findings])
    else:
        typer.echo(
            f"whole: {result.changes} changes, {result.rows} rows, {result.files} files; head {result.head}\n"
            "Keep the head elsewhere: with --expected-head it shows a history that was written anew."
        )
    if result.findings:
        raise typer.Exit(1)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    retention_days: Annotated[
        float,
        typer.Option(
            min=0, max=_LONGEST_DAYS, help="How long files of a deleted version stay after it was last in use."
        ),
    ] = 365.0,
    grace_minutes: Annotated[
        float,
        typer.Option(
            min=0,
            max=_LONGEST_DAYS * 1440,
            help="Younger files that no row names may belong to a registration under way.",
        ),
    ] = 60.0,
    reason: Reason = "",
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Remove files that no row names, and those of deleted versions that nobody needs any more."""
    retention, grace = timedelta(days=retention_days), timedelta(minutes=grace_minutes)
    with opened(registry, artifacts) as found:
        if dry_run:
            garbage = found.find_garbage(retention, grace)
        else:
            garbage = found.collect_garbage(author(actor, reason), retention, grace)
    if as_json:
        print_json({"removed": not dry_run, "files": garbage})
        return
    print_table(("file", "bytes", "why"), [(file.name, file.size_bytes, file.reason) for file in garbage])
    size_bytes = sum(file.size_bytes for file in garbage)
    typer.echo(f"{len(garbage)} files, {size_bytes} bytes {'would go' if dry_run else 'removed'}")


def export(
    model: ModelName,
    version: Reference,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder to write into.")],
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Write a version's package, figures, evaluations and history into a folder."""
    with opened(registry, artifacts) as found:
        folder = found.export(found.resolve(model, version), out)
    if as_json:
        print_json({"path": folder})
    else:
        typer.echo(str(folder))


def import_version(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What export wrote.")],
    reason: Reason = "",
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Register an exported version here, with its history beside it; it has to be approved here again."""
    with opened_or_made(registry, artifacts) as found:
        version = found.import_version(folder, author(actor, reason))
    if as_json:
        print_json(version)
    else:
        typer.echo(f"{version.model} version {version.version} is {version.status}, digest {version.digest[:12]}")


def require_signature(
    state: Annotated[
        Literal["on", "off"] | None, typer.Argument(help="Without it: say which it is.", show_default=False)
    ] = None,
    reason: Reason = "",
    actor: Actor = "",
    registry: RegistryUrl = "",
    artifacts: Artifacts = "",
    as_json: Json = False,
) -> None:
    """Require that a trusted key signed every package that is registered or loaded, for every user of the registry."""
    with opened_or_made(registry, artifacts) as found:
        if state is not None:
            found.require_signature(state == "on", author(actor, reason))
        is_required = found.requires_signature
    if as_json:
        print_json({"require_signature": is_required})
    else:
        typer.echo(f"signatures are {'required' if is_required else 'not required'}")


def upgrade(registry: RegistryUrl = "", as_json: Json = False) -> None:
    """Bring the registry's tables to the schema of this tickserve; stop older servers first."""
    from mlops.registry.database import Database
    from mlops.registry.migrate import HEAD
    from mlops.registry.migrate import upgrade as run
    from tickserve.home import home

    database = Database(registry or f"sqlite:///{home() / 'registry' / 'registry.db'}")
    run(database)
    database.close()
    if as_json:
        print_json({"schema": HEAD})
    else:
        typer.echo(f"schema {HEAD}")
