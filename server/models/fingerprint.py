"""What a version's folder looks like from outside: another look is a reason to read it again."""

import os
from pathlib import Path

#: Changes whenever a file of the version does: name, size and change time of each, which no copy can set to another.
Fingerprint = tuple[tuple[str, int, int], ...]


def fingerprint(path: Path) -> Fingerprint:
    """What a folder's files look like from outside; empty where it cannot be read."""
    try:
        with os.scandir(path) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError:
        return ()
    return tuple(sorted((name, facts.st_size, facts.st_ctime_ns) for name, facts in found))
