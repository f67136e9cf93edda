"""Builds the wheel `tickserve-native` from these sources and installs it beside the server, once for the same sources.

Needs cargo on PATH and maturin in the environment of the Python that runs this.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / ".build" / "native"
#: Says of which sources the installed wheel is; goes with the environment.
STAMP = Path(sys.prefix) / ".tickserve-native"
SOURCES = ("native/**/*.rs", "native/**/*.toml", "native/Cargo.lock", "protos/**/*.proto")


def main() -> None:
    """Brings the installed wheel up to the sources."""
    digest = digest_of_sources()
    is_installed = importlib.util.find_spec("tickserve_native") is not None
    if is_installed and STAMP.exists() and STAMP.read_text() == digest:
        return
    folder, unfinished = BUILT / digest, BUILT / f"{digest}.unfinished"
    if not folder.exists():
        print("building the native engine, a few minutes the first time", flush=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [sys.executable, "-m", "maturin", "build", "--release", "--locked", "--quiet"]
        manifest = ROOT / "native" / "py" / "Cargo.toml"
        subprocess.run([*command, "--manifest-path", manifest, "--out", unfinished], check=True)
        unfinished.rename(folder)
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--force-reinstall", "--no-deps", wheel], check=True)
    STAMP.write_text(digest)


def digest_of_sources() -> str:
    """SHA-256 over the names and contents of all that the wheel is made of."""
    whole = hashlib.sha256()
    found = {path for pattern in SOURCES for path in ROOT.glob(pattern)}
    for path in sorted(found):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("native/target/"):
            whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


if __name__ == "__main__":
    main()
