"""`tickserve demo`: the whole path on real data, from prices to a halted model."""

import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer


def demo(
    report: Annotated[Path | None, typer.Option(help="Write what was measured as JSON.", show_default=False)] = None,
    home: Annotated[Path, typer.Option(help="The demo's folder of state.")] = Path(".tickserve"),
    serve: Annotated[bool, typer.Option("--serve", help="Serve the demo's models until Ctrl-C instead.")] = False,
) -> None:
    """Train, package, serve and predict on real daily prices, and show how the server treats what is wrong."""
    from rich.console import Console

    from tickserve.cli.demo.process import ServerProcess
    from tickserve.cli.demo.show import Show, serve_until_stopped

    # As an exception, so that the demo's server is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(highlight=False)
    home = home.absolute()
    if serve:
        serve_until_stopped(home, console)
        return
    with ExitStack() as stack:
        show = Show(home, console, stack.enter_context(ServerProcess(home)))
        facts = show.run()
    if report is not None:
        report.write_text(json.dumps(facts, indent=2) + "\n")
        console.print(f"report written to {report}")
