"""What the settings of listeners must be, for every process that listens: validators of pydantic fields.

The settings are named as everywhere: `tls_cert` stands before `tls_key` and before what authorities clients need.
"""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationInfo

from tickserve.address import check_listener, is_unix

_Addresses = TypeVar("_Addresses", str, tuple[str, ...])


def split_list(value: Any) -> Any:
    """A list as an environment variable holds it, separated by commas; anything else as it is."""
    if not isinstance(value, str):
        return value
    return tuple(part for each in value.split(",") if (part := each.strip()))


def check_addresses(value: _Addresses) -> _Addresses:
    """One address or several that can be listened on."""
    for address in (value,) if isinstance(value, str) else value:
        check_listener(address)
    return value


def check_tcp(value: str) -> str:
    """No Unix socket."""
    if is_unix(value):
        raise ValueError("must be host:port, a Unix socket is not offered")
    return value


def check_pair(value: Path | None, info: ValidationInfo) -> Path | None:
    """A key with its certificate, or neither."""
    if (value is None) != (info.data.get("tls_cert") is None):
        raise ValueError("tls_cert and tls_key go together; give both or neither")
    return value


def check_authority(value: Path | None, info: ValidationInfo) -> Path | None:
    """An authority for certificates of clients only where there is TLS."""
    if value is not None and info.data.get("tls_cert") is None:
        raise ValueError("clients show certificates only over TLS; give tls_cert and tls_key too")
    return value
