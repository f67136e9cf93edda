"""`tickserve drift`: whether what a model sees has moved away from what it was made on."""

import typer

from tickserve.cli.drift.calibrate import calibrate
from tickserve.cli.drift.check import check
from tickserve.cli.drift.report import report
from tickserve.cli.drift.show import show

app = typer.Typer(help="Drift against a package's baseline.", no_args_is_help=True)
app.command()(check)
app.command()(calibrate)
app.command()(report)
app.command()(show)
