"""Files of the log that consumers had to pass over because they are damaged: logged once each, and counted."""

from pathlib import Path

import structlog

from tickserve.errors import DamagedLogError

_log = structlog.get_logger()


class DamagedFiles:
    """Takes what `read_all` passes over. Several consumers may meet the same file, and after a restart once more."""

    def __init__(self) -> None:
        self._paths: set[Path] = set()

    def __len__(self) -> int:
        return len(self._paths)

    def pass_over(self, path: Path, error: DamagedLogError) -> None:
        """Counts a file. Raises OSError where its bytes cannot be read now: that says nothing of what is in it."""
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
        if path not in self._paths:
            self._paths.add(path)
            _log.error("log_file_passed_over", file=str(path), error=error.message)
