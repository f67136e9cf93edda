"""What this server served last, kept over a restart: where it goes back to if what is wanted cannot be served."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from server.models.codec import plain_ref, plain_target, read_target
from server.models.files import read_checked, write_checked
from server.models.values import Target, VersionRef
from tickserve.errors import ConfigurationError

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LastServed:
    """One model as it was served: the target, and where each of its versions was found, with the digest it had.

    `previous` is the version that was kept warm behind them, if any; it is among the versions.
    """

    target: Target
    versions: Mapping[str, VersionRef]
    previous: str = ""


class ServedFile:
    """Keeps what is served. A file that is lost or damaged costs only the way back, and is said in the log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: Mapping[str, LastServed] = {}
        self._is_refused = False

    def read(self) -> Mapping[str, LastServed]:
        """What was served by model; nothing where it is not known."""
        try:
            body = read_checked(self._path)
            self._written = {name: _last(entry) for name, entry in (body or {}).items()}
        except (ConfigurationError, KeyError, TypeError, AttributeError) as error:
            _log.error("last_served_lost", file=str(self._path), error=str(error))
        return self._written

    def write(self, served: Mapping[str, LastServed]) -> OSError | None:
        """Replaces it where it changed. Returns why the disk refuses; that is said once."""
        if served == self._written:
            return None
        body = {
            name: {
                "target": plain_target(last.target),
                "versions": [plain_ref(last.versions[version]) for version in sorted(last.versions)],
                "previous": last.previous,
            }
            for name, last in served.items()
        }
        try:
            write_checked(self._path, body)
        except OSError as error:
            if not self._is_refused:
                _log.error("last_served_not_written", file=str(self._path), error=error.strerror)
            self._is_refused = True
            return error
        self._written = dict(served)
        self._is_refused = False
        return None


def _last(entry: Any) -> LastServed:
    refs = [VersionRef(ref["version"], ref["digest"], ref["place"]) for ref in entry["versions"]]
    return LastServed(read_target(entry["target"]), {ref.version: ref for ref in refs}, entry.get("previous", ""))
