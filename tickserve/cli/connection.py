"""The options with which a command reaches a server: TLS for all, and for operators where the admin listener is."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickserve.home import home

if TYPE_CHECKING:
    from tickserve.client import ControlClient, Tls

Admin = Annotated[
    str | None,
    typer.Option(
        envvar="TICKSERVE_ADMIN",
        help="Admin listener, unix:/path or host:port; by default the socket in TICKSERVE_HOME.",
        show_default=False,
    ),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(help="TLS; trust servers whose certificate this PEM file signs.", show_default=False),
]
TlsCert = Annotated[Path | None, typer.Option(help="TLS; show the server this certificate (PEM).", show_default=False)]
TlsKey = Annotated[Path | None, typer.Option(help="Key of --tls-cert (PEM).", show_default=False)]


def make_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> "Tls | None":
    """TLS where any of its options is given."""
    from tickserve.client import Tls

    return Tls(ca, certificate, key) if ca or certificate or key else None


def operates(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command of a function that takes a ControlClient first; the options that say which server come last."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        with connect(**{name: given.pop(name) for name in _SERVER}) as control:
            command(control, **given)

    own = list(inspect.signature(command).parameters.values())[1:]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *_SERVER.values())]
    # What typer reads the options from.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def connect(
    admin: Admin = None, tls_ca: TlsCa = None, tls_cert: TlsCert = None, tls_key: TlsKey = None
) -> "ControlClient":
    """A client of the server that the options name."""
    from tickserve.client import ControlClient

    return ControlClient(admin or f"unix:{home() / 'admin.sock'}", tls=make_tls(tls_ca, tls_cert, tls_key))


#: The options themselves are the parameters of `connect`.
_SERVER = inspect.signature(connect).parameters
