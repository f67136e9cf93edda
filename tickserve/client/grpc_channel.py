"""What the blocking and the asyncio transport over grpcio have in common."""

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import grpc

from tickserve.address import is_unix
from tickserve.client.tls_files import read_tls
from tickserve.client.transport import MAX_ANSWER_BYTES, CallError, Tls
from tickserve.errors import Code

# A restarted server is found again within a second, where grpc by itself would back off for up to two minutes. Each
# client has its own connection, and none goes through a proxy: the server is near.
OPTIONS: Final[tuple[tuple[str, str | int], ...]] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
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


def no_answer() -> CallError:
    """How a call failed that has the status OK and nothing else."""
    return CallError(Code.INTERNAL, "the call ended well, but without an answer")


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Reads the files. Raises ConfigurationError where they cannot be read or do not go together."""
    files = read_tls(tls)
    return grpc.ssl_channel_credentials(
        root_certificates=files.authorities, private_key=files.key, certificate_chain=files.certificate
    )


def target(address: str) -> str:
    """The address as grpc reads it: a URI, where a path may hold neither ? nor # nor a % of its own."""
    return quote(address, safe="/:") if is_unix(address) else address


def options(tls: Tls | None) -> tuple[tuple[str, str | int], ...]:
    """Arguments of the channel."""
    if tls is None or tls.server_name is None:
        return OPTIONS
    return (*OPTIONS, ("grpc.ssl_target_name_override", tls.server_name))
