"""Calls of the programs that nobody here wrote."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ("-import-path", str(ROOT / "protos"))


def program(name: str) -> str:
    """The path of a program; the test fails where it is missing."""
    found = shutil.which(name)
    assert found, f"{name} is missing; `make integration` installs it"
    return found


def call(name: str, *arguments: str, stdin: bytes = b"", code: int = 0) -> str:
    """Runs a program to its end and returns what it printed; its exit code must be `code`."""
    done = subprocess.run([program(name), *arguments], input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == code, f"{name} ended with {done.returncode}\n{done.stdout!r}\n{done.stderr.decode()}"
    # What a server sends after a TLS handshake is printed as it is.
    return done.stdout.decode(errors="replace")


def grpcurl(*arguments: str, code: int = 0, name: str = "grpcurl") -> str:
    """Calls in plain text."""
    return call(name, "-plaintext", "-max-time", "20", *arguments, code=code)
