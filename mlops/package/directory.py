"""A directory of models without a registry: `<model>/<version>/` holds a package, or a bare model.onnx.

Versions are positive decimal integers without leading zeros. Hidden names and everything that is no such version are
passed over, and so are folders without any version. Model names are listed as they are found: whoever reads a version
holds its name against `check_model_name` and the manifest, so that one bad name spoils no other model.
"""

import hashlib
import os
import re
from pathlib import Path

from mlops.package._files import list_entries, publish_folder, read_file, staged_folder
from mlops.package.manifest import DIGEST_FILE, MANIFEST_FILE
from mlops.package.verify import MAX_BYTES, read_files, read_package, verify_files, witness_file
from tickserve.errors import PackageError

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def list_versions(models_dir: Path) -> dict[str, dict[int, Path]]:
    """The folders of every version of every model, by name and number, in ascending order.

    Raises
    ------
    PackageError
        Where `models_dir` cannot be read.
    """
    found: dict[str, dict[int, Path]] = {}
    for name in sorted(list_entries(models_dir)):
        folder = models_dir / name
        # A volume's root often holds lost+found, which only root can read.
        if name.startswith(".") or name == "lost+found" or not name.isprintable() or not _is_folder(folder):
            continue
        numbers = _numbers(folder)
        versions = {number: folder / str(number) for number in numbers if (folder / str(number)).is_dir()}
        if versions:
            found[name] = versions
    return found


def add_version(models_dir: Path, package_dir: Path) -> tuple[int, Path]:
    """Copies a package below `models_dir` as its model's next version, whole or not at all.

    A version that already holds this digest undamaged is returned as it is. Any number of processes may add at once:
    a number taken meanwhile means the next one.

    Returns
    -------
    tuple[int, Path]
        The version and its folder.

    Raises
    ------
    PackageError
        Where the package does not verify.
    """
    files = read_files(package_dir)
    package = verify_files(package_dir, files)
    folder = models_dir / package.manifest.name
    with staged_folder(folder, files | {DIGEST_FILE: witness_file(package.digest)}) as staged:
        while True:
            # Files count too: a number is free only where nothing has that name.
            numbers = _numbers(folder)
            for number in numbers:
                if _holds(folder / str(number), package.digest):
                    return number, folder / str(number)
            final = folder / str(numbers[-1] + 1 if numbers else 1)
            if publish_folder(staged, final):
                return int(final.name), final


def _is_folder(path: Path) -> bool:
    """Whether this is a folder that may be looked into; one that may not is passed over like any foreign name."""
    return path.is_dir() and os.access(path, os.R_OK | os.X_OK)


def _numbers(folder: Path) -> list[int]:
    return sorted(int(entry) for entry in list_entries(folder) if _VERSION.fullmatch(entry))


def _holds(version: Path, digest: str) -> bool:
    """Whether this version is that package, undamaged."""
    try:
        manifest = read_file(version / MANIFEST_FILE, MAX_BYTES[MANIFEST_FILE])
        return hashlib.sha256(manifest).hexdigest() == digest and read_package(version).digest == digest
    except PackageError:
        return False
