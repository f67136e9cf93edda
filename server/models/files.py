"""Small files of state: written whole or not at all, and read back only as they were written."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import rfc8785

from tickserve.errors import ConfigurationError


def write_text(path: Path, text: str) -> None:
    """Replaces a file. Raises OSError where the disk refuses; the old file then stays, and nothing beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name, because one server writes here: what a killed one left is overwritten.
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_checked(path: Path, body: Any) -> None:
    """Writes a structured value with its SHA-256. Raises OSError."""
    text = rfc8785.dumps(body).decode()
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f'{{"sha256": "{digest}",\n"body": {text}}}\n')


def read_checked(path: Path) -> Any:
    """What `write_checked` wrote; None where there is no such file.

    Raises
    ------
    ConfigurationError
        Where it cannot be read, or is not as it was written.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", field="home") from None
    try:
        envelope = json.loads(data)
        body = envelope["body"]
        is_whole = hashlib.sha256(rfc8785.dumps(body)).hexdigest() == envelope["sha256"]
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise ConfigurationError(f"{path} is damaged: it is not as it was written", field="home")
    return body
