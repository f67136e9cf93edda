"""Addresses as operators and clients write them: `host:port` and `unix:/path`."""

import re

_SCHEME = "unix:"
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
# sockaddr_un.sun_path holds 108 bytes, the last of them zero.
_MAX_SOCKET_PATH_BYTES = 107


def is_unix(address: str) -> bool:
    """True for `unix:/path`, False for `host:port`."""
    return address.startswith(_SCHEME)


def check_target(address: str) -> str:
    """Returns an address that can be connected to; raises ValueError saying what is wrong with any other."""
    if not is_unix(address) and split_host(address)[1] == 0:
        raise ValueError(f"{address!r} has port 0, which no server listens on")
    return check_listener(address)


def check_listener(address: str) -> str:
    """Returns an address that can be listened on, where port 0 chooses one; raises ValueError for any other."""
    if not is_unix(address):
        split_host(address)
        return address
    path = address.removeprefix(_SCHEME)
    if not path.startswith("/"):
        raise ValueError(f"{address!r} must be unix:/absolute/path")
    size = len(path.encode())
    if size > _MAX_SOCKET_PATH_BYTES:
        raise ValueError(
            f"{address!r}: the path of a Unix socket has at most {_MAX_SOCKET_PATH_BYTES} bytes, this one has {size}"
        )
    return address


def split_host(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port of `host:port`; raises ValueError for anything else."""
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{address!r} must be host:port or unix:/path, with a port of at most 65535")
    return match[1].strip("[]"), int(match[2])
