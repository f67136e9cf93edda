"""How the bytes of a call travel: what every transport offers, and what it is told."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from tickserve.address import check_target
from tickserve.errors import Code, ConfigurationError

#: A longer answer is refused by its announced length. Servers bound theirs far below.
MAX_ANSWER_BYTES = 256 << 20

_NO_TRAILERS: Mapping[str, str] = MappingProxyType({})


class CallError(Exception):
    """A call that brought no answer, as the wire says it; `failure` makes it one for people.

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


class Outgoing(Protocol):
    """The caller's side of a stream."""

    def send(self, message: bytes) -> None:
        """Queues a message; never waits."""

    def finish(self) -> None:
        """Says that no more will be sent."""

    def cancel(self) -> None:
        """Ends both directions at once."""


class ByteStream(Outgoing, Protocol):
    """A stream under way; `send`, `finish` and `cancel` may be called from any thread."""

    def __iter__(self) -> Iterator[bytes]:
        """What the server sends, to the end. Raises CallError where that has a status other than OK."""


class AioByteStream(Outgoing, Protocol):
    """The same on an event loop."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """What the server sends, to the end. Raises CallError where that has a status other than OK."""


class Transport(Protocol):
    """Carries the bytes of calls to one server; its methods may be called from any thread."""

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """The answer of one unary call of `method` (`/package.Service/Method`). Raises CallError."""

    def stream(self, method: str) -> ByteStream:
        """Begins a stream of `method`. Raises CallError where the transport is closed."""

    def close(self) -> None:
        """Ends calls and streams that are under way, and refuses new ones."""


class AioTransport(Protocol):
    """The same on one event loop, that of the first call."""

    async def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """The answer of one unary call of `method` (`/package.Service/Method`). Raises CallError."""

    def stream(self, method: str) -> AioByteStream:
        """Begins a stream of `method`. Raises CallError where the transport is closed."""

    async def close(self) -> None:
        """Ends calls and streams that are under way, and refuses new ones."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS, and the client's own certificate where the server asks for one; files are PEM.

    Without `ca_file` the server's certificate is checked against the roots that grpc brings. `server_name` is the name
    that it must bear, where that is not the host of the address.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None


#: Makes a transport for a checked address.
Connect = Callable[[str, Tls | None], Transport]
AioConnect = Callable[[str, Tls | None], AioTransport]


def check_address(address: str) -> str:
    """Returns `address` where it is `host:port` or `unix:/path`; raises ConfigurationError otherwise."""
    try:
        return check_target(address)
    except ValueError as error:
        raise ConfigurationError(f"address: {error}", field="address") from None


def check_addresses(address: str | Sequence[str]) -> tuple[str, ...]:
    """One address, or several different ones; raises ConfigurationError for anything else."""
    addresses = (address,) if isinstance(address, str) else tuple(address)
    if not addresses or len(set(addresses)) != len(addresses):
        raise ConfigurationError(
            f"address: {list(addresses)} - one address, or several different ones, are expected", field="address"
        )
    return tuple(check_address(each) for each in addresses)


def is_closed() -> CallError:
    """How a call of a closed transport fails."""
    return CallError(Code.CANCELLED, "the client is closed; make a new one", never_left=True)
