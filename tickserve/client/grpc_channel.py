"""What the blocking and the asyncio transport over grpcio have in common."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import grpc

from tickserve.client.transport import CallError, Tls
from tickserve.errors import Code, ConfigurationError

# A restarted server is found again within a second, where grpc by itself would back off for up to two minutes. Each
# client has its own connection, and none goes through a proxy: the server is near.
OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
)

# What grpc says of a call for which no connection could be made. Any other text counts as sent.
_NEVER_LEFT = ("failed to connect to all addresses", "errors resolving ", "DNS resolution failed")


def call_error(code: grpc.StatusCode, details: str | None, trailers: Iterable[Any] | None) -> CallError:
    """A failed call's status without grpc; `trailers` are pairs."""
    message = details or ""
    return CallError(
        Code(code.value[0]),
        message,
        trailers={key: value for key, value in trailers or () if isinstance(value, str)},
        never_left=message.startswith(_NEVER_LEFT),
    )


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Reads the files. Raises ConfigurationError where they cannot be read or do not go together."""
    if (tls.certificate_file is None) != (tls.key_file is None):
        raise ConfigurationError("tls: certificate_file and key_file go together; give both or neither", field="tls")
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file, "ca_file"),
        private_key=_read(tls.key_file, "key_file"),
        certificate_chain=_read(tls.certificate_file, "certificate_file"),
    )


def _read(path: Path | None, name: str) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"tls: {name} cannot be read: {error}", field=f"tls.{name}") from None
