"""`tickserve keys`: make and list signing keys, and sign packages."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tickserve.home import home

app = typer.Typer(help="Signing keys, in TICKSERVE_HOME/keys: who vouches for a package.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Folder = Annotated[
    Path | None, typer.Option("--keys", help="Folder of keys; TICKSERVE_HOME/keys where not given.", show_default=False)
]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the key, such as the one of a person or a team.")],
    keys: _Folder = None,
    as_json: _Json = False,
) -> None:
    """Make a key pair: NAME.key stays here, NAME.pub goes into the folder of keys of whoever trusts it."""
    from mlops.package import new_key

    folder = keys or home() / "keys"
    made = new_key(folder, name)
    if as_json:
        typer.echo(json.dumps(asdict(made) | {"folder": str(folder)}))
    else:
        typer.echo(f"{made.public_key}\nprivate: {folder / name}.key (keep it here)\npublic:  {folder / name}.pub")


@app.command("list")
def list_(keys: _Folder = None, as_json: _Json = False) -> None:
    """List the keys that are trusted here, and which of them can sign here."""
    from mlops.package import list_keys

    found = list_keys(keys or home() / "keys")
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in found]))
        return
    table = Table("key", "can sign")
    table.add_column("public key", overflow="fold")
    for key in found:
        table.add_row(escape(key.name), "yes" if key.can_sign else "no", key.public_key)
    Console().print(table, highlight=False)


@app.command()
def sign(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Folder of the package.")],
    key: Annotated[str, typer.Option(help="Name of the key.")],
    keys: _Folder = None,
    as_json: _Json = False,
) -> None:
    """Verify a package and sign its digest. The signature lies beside its files and changes none of them."""
    from mlops.package import load_private_key, read_package, sign_package

    signature = sign_package(folder, load_private_key(keys or home() / "keys", key))
    digest = read_package(folder).digest
    if as_json:
        typer.echo(json.dumps({"digest": digest, "key": key, "public_key": signature.public_key}))
    else:
        typer.echo(f"{digest} signed by {key} ({signature.public_key[:16]})")
