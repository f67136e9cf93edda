"""What every command that changes a server shares: who asks, why, and how the result is printed."""

import functools
import getpass
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from tickserve.cli.connection import operates
from tickserve.cli.models.options import Json, Reason

_Actor = Annotated[str | None, typer.Option(help="Who asks; by default the login name.", show_default=False)]


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for a change, and why."""

    actor: str
    reason: str
    as_json: bool

    def show(self, facts: dict[str, Any], text: str) -> None:
        """Prints the result, for programs or for people."""
        typer.echo(json.dumps(facts) if self.as_json else text)


def changes(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command of a function that takes a ControlClient and an Asked first."""
    return _asked(command, _asks)


def changes_with_reason(command: Callable[..., None]) -> Callable[..., None]:
    """The same, where a reason must be given."""
    return _asked(command, _asks_why)


def _asks(reason: Annotated[str, typer.Option(help="Why.")] = "", actor: _Actor = None, as_json: Json = False) -> Asked:
    return _asks_why(reason, actor, as_json)


def _asks_why(reason: Reason, actor: _Actor = None, as_json: Json = False) -> Asked:
    return Asked(actor or _login_name(), reason, as_json)


def _asked(command: Callable[..., None], ask: Callable[..., Asked]) -> Callable[..., None]:
    options = inspect.signature(ask).parameters

    @functools.wraps(command)
    def run(control: Any, **given: Any) -> None:
        command(control, ask(**{name: given.pop(name) for name in options}), **given)

    control, _, *own = inspect.signature(command).parameters.values()
    parameters = [control, *(each.replace(kind=each.KEYWORD_ONLY) for each in (*own, *options.values()))]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return operates(run)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise typer.BadParameter("this user has no login name; say who asks with --actor") from None
