"""`tickserve models`: the registry from the command line."""

from collections.abc import Callable

import typer

from tickserve.cli.models.care import export, gc, import_version, require_signature, upgrade, verify
from tickserve.cli.models.change import (
    alias,
    approve,
    check,
    delete,
    edit,
    label,
    log_metrics,
    promote,
    register,
    retire,
    rollback,
)
from tickserve.cli.models.read import as_of, best, compare, history, list_versions, search, show, watch

app = typer.Typer(help="The registry: what exists, what may serve, who said so, and proof.", no_args_is_help=True)
_COMMANDS: tuple[Callable[..., None], ...] = (
    register,
    show,
    compare,
    search,
    edit,
    approve,
    check,
    promote,
    rollback,
    retire,
    delete,
    label,
    alias,
    history,
    best,
    verify,
    gc,
    export,
    watch,
    require_signature,
    upgrade,
)
for command in _COMMANDS:
    app.command()(command)
app.command("list")(list_versions)
app.command("as-of")(as_of)
app.command("log-metrics")(log_metrics)
app.command("import")(import_version)
