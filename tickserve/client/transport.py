"""How the bytes of a call travel: what every transport offers, and the one over grpcio."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast

import grpc

from tickserve.errors import Code, ConfigurationError

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
# sockaddr_un.sun_path holds 108 bytes, the last of them zero.
_MAX_SOCKET_PATH_BYTES = 107
_NO_TRAILERS: Mapping[str, str] = MappingProxyType({})

# A restarted server is found again within a second, where grpc by itself would back off for up to two minutes. Each
# client has its own connection, and none goes through a proxy: the server is near.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
)

# What grpc says of a call for which no connection could be made. Any other text counts as sent.
_NEVER_LEFT = ("failed to connect to all addresses", "errors resolving ", "DNS resolution failed")


class CallError(Exception):
    """A call that brought no answer, as the wire says it; `errors.rebuild` makes it one for people.

    `never_left` is True only where the transport knows that the server cannot have seen the request.
    """

    def __init__(
        self, code: Code, message: str, *, trailers: Mapping[str, str] = _NO_TRAILERS, never_left: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailers = trailers
        self.never_left = never_left


class Transport(Protocol):
    """Carries the bytes of calls to one server; its methods may be called from any thread."""

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """The answer of one unary call of `method` (`/package.Service/Method`). Raises CallError."""

    def close(self) -> None:
        """Ends calls that are under way, and refuses new ones."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS, and the client's own certificate where the server asks for one; files are PEM.

    Without `ca_file` the server's certificate is checked against the roots that grpc brings.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


#: Makes a transport for a checked address.
Connect = Callable[[str, Tls | None], Transport]


def check_address(address: str) -> str:
    """Returns `address` where it is `host:port` or `unix:/path`; raises ConfigurationError otherwise."""
    if address.startswith("unix:"):
        size = len(address.removeprefix("unix:").encode())
        if not 1 <= size <= _MAX_SOCKET_PATH_BYTES:
            raise ConfigurationError(
                f"address {address!r}: the path of a Unix socket has 1 to {_MAX_SOCKET_PATH_BYTES} bytes, "
                f"this one has {size}",
                field="address",
            )
        return address
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ConfigurationError(
            f"address {address!r} is neither `host:port` with a port from 1 to 65535 nor `unix:/path`", field="address"
        )
    return address


class GrpcTransport:
    """Calls over one grpcio channel."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self._channel = (
            grpc.insecure_channel(address, options=_OPTIONS)
            if tls is None
            else grpc.secure_channel(address, _credentials(tls), options=_OPTIONS)
        )
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """See Transport."""
        try:
            bound = self._methods.get(method)
            if bound is None:
                bound = self._methods[method] = self._channel.unary_unary(method, bytes, bytes)
            return bound(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise _call_error(cast(grpc.Call, error)) from None
        except ValueError:
            # The only one that grpc raises here is of a closed channel, which it cannot be asked about.
            raise CallError(Code.CANCELLED, "the client is closed; make a new one", never_left=True) from None

    def close(self) -> None:
        """See Transport."""
        self._channel.close()


def _call_error(call: grpc.Call) -> CallError:
    message = call.details() or ""
    return CallError(
        Code(call.code().value[0]),
        message,
        trailers={key: value for key, value in call.trailing_metadata() or () if isinstance(value, str)},
        never_left=message.startswith(_NEVER_LEFT),
    )


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
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
