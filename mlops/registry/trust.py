"""Whether packages of this registry need a trusted signature: its own setting, so that nobody passes it by."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from mlops.package import Package, require_signature, trusted_keys
from mlops.registry.database import Database
from mlops.registry.desired import raise_revision
from mlops.registry.journal import Write
from mlops.registry.schema import settings
from tickserve.errors import PackageError

_NAME = "require_signature"


@dataclass(frozen=True)
class Trust:
    """Holds packages against the registry's setting. `keys` is this machine's folder of trusted public keys."""

    database: Database
    keys: Path

    def check(self, package: Package) -> None:
        """Raises PackageError where a signature is required, and the package has none of a trusted key.

        Raises
        ------
        ConfigurationError
            Where one is required and the keys cannot be read.
        """
        with self.database.read() as connection:
            is_required = requires_signature(connection)
        if is_required:
            if not self.keys.exists():
                raise PackageError(
                    f"this registry requires signatures, and there are no trusted keys in {self.keys}; copy the public "
                    "keys (NAME.pub) of who may vouch for packages there",
                    field="trusted_keys",
                )
            require_signature(package.digest, package.signature, trusted_keys(self.keys))


def requires_signature(connection: Connection) -> bool:
    """Whether this registry requires signatures."""
    return bool(connection.execute(select(settings.c.value).where(settings.c.name == _NAME)).scalar_one_or_none())


def set_requirement(write: Write, is_required: bool) -> None:
    """Requires signatures from now on, at registration and at loading, or no longer; servers that run learn of it."""
    known = write.connection.execute(select(settings.c.value).where(settings.c.name == _NAME)).scalar_one_or_none()
    if known is None:
        write.insert(settings, name=_NAME, value=is_required)
    elif known != is_required:
        write.update(settings, {"name": _NAME}, value=is_required)
    if bool(known) != is_required:
        raise_revision(write)
