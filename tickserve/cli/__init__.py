"""The `tickserve` program.

Exit codes: 0 done, 1 the answer is no, 2 usage or configuration, 3 unreachable or internal.
"""

import sys
import traceback

import typer
from rich.console import Console

from tickserve.cli import desired, drift, keys, models, package, rollout, split
from tickserve.cli.bench import bench
from tickserve.cli.control import choose, drain, events, follow, halt, release, resume, rollback
from tickserve.cli.demo import demo
from tickserve.cli.predict import predict
from tickserve.cli.replay import replay
from tickserve.cli.serve import serve
from tickserve.cli.sidecar import sidecar
from tickserve.cli.status import status
from tickserve.cli.train import train
from tickserve.errors import (
    Code,
    ControlError,
    DeadlineError,
    InternalError,
    StatusError,
    TickserveError,
    UnreachableError,
)

app = typer.Typer(
    name="tickserve",
    help="Low-latency model server for trading.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    train,
    serve,
    sidecar,
    replay,
    predict,
    status,
    halt,
    resume,
    follow,
    rollback,
    choose,
    release,
    events,
    drain,
    bench,
):
    app.command()(command)
app.add_typer(package.app, name="package")
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(desired.app, name="desired")
app.add_typer(split.app, name="split")
app.add_typer(rollout.app, name="rollout")
app.add_typer(drift.app, name="drift")


def main() -> None:
    """Runs the program and exits."""
    try:
        app()
    except TickserveError as error:
        _complain(error.message)
        sys.exit(_exit_code(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is ours: a traceback, and the documented exit code
        if isinstance(error, UnicodeEncodeError) and error.object in sys.argv:
            _complain(f"argument {error.object!a} is no UTF-8")
            sys.exit(2)
        traceback.print_exc()
        sys.exit(3)


def _complain(message: str) -> None:
    Console(stderr=True, style="red", markup=False, highlight=False, soft_wrap=True).print(f"error: {message}")


def _exit_code(error: TickserveError) -> int:
    if isinstance(error, UnreachableError | DeadlineError | InternalError | StatusError):
        return 3
    if isinstance(error, ControlError) and error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
        # A server that answers, whose registry does not.
        return 3
    return 2 if error.code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND) else 1
