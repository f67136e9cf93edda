"""Which transport a client's calls take: in Rust where it is installed, else grpcio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from tickserve.client.transport import AioTransport, Tls, Transport
from tickserve.errors import ConfigurationError

if TYPE_CHECKING:
    from tickserve.client.native_codec import NativeCodec

#: `auto` takes the native one where the wheel tickserve-native is installed and is of this release, else grpcio.
TransportName: TypeAlias = Literal["auto", "grpcio", "native"]


def connect(address: str, tls: Tls | None, transport: TransportName) -> Transport:
    """The blocking transport. Raises ConfigurationError where that cannot be had."""
    if is_native(transport):
        from tickserve.client.native_sync import NativeTransport

        return NativeTransport(address, tls)
    from tickserve.client.grpc_sync import GrpcTransport

    return GrpcTransport(address, tls)


def connect_aio(address: str, tls: Tls | None, transport: TransportName) -> AioTransport:
    """The asyncio transport. Raises ConfigurationError where that cannot be had."""
    if is_native(transport):
        from tickserve.client.native_aio import NativeAioTransport

        return NativeAioTransport(address, tls)
    from tickserve.client.grpc_aio import GrpcAioTransport

    return GrpcAioTransport(address, tls)


def codec(transport: TransportName) -> NativeCodec | None:
    """What reads and writes messages in Rust, where calls are carried there, too."""
    if not is_native(transport):
        return None
    from tickserve.client.native_codec import NativeCodec

    return NativeCodec()


def is_native(transport: TransportName) -> bool:
    """Whether it is to be the native one. Raises ConfigurationError where that is asked for and cannot be had."""
    from tickserve.client.native_channel import find_native

    match transport:
        case "grpcio":
            return False
        case "native":
            find_native()
            return True
        case "auto":
            try:
                find_native()
            except ConfigurationError:
                return False
            return True
        case _:
            raise ConfigurationError(
                f"transport is {transport!r}; expected 'auto', 'grpcio' or 'native'", field="transport"
            )
