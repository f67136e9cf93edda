"""How gRPC listeners are opened: addresses, Unix sockets, TLS and bounds, for engines and the admin listener alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from tickserve.address import is_unix
from tickserve.errors import ConfigurationError
from tickserve.listening.connections import ConnectionBounds
from tickserve.listening.sockets import socket_file
from tickserve.listening.tls import Certificates, TlsIdentity


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates of a listener, and which authorities vouch for its clients; None: clients show none."""

    certificates: Certificates
    client_ca: Callable[[TlsIdentity], bytes | None]


@dataclass(frozen=True, slots=True)
class Listeners:
    """Addresses that one gRPC server listens on. TLS is for TCP; a Unix socket stays plain and is guarded by its mode.

    `setting` names the addresses in errors.
    """

    setting: str
    addresses: Sequence[str]
    bounds: ConnectionBounds
    socket_mode: int
    tls: Tls | None = None

    def options(self) -> list[tuple[str, int]]:
        """The bounds in grpc's terms."""
        bounds = self.bounds
        options = {
            "grpc.so_reuseport": 0,
            "grpc.max_allowed_incoming_connections": bounds.max_connections,
            "grpc.max_concurrent_streams": bounds.max_streams,
            "grpc.server_handshake_timeout_ms": _ms(bounds.handshake_timeout_s),
            "grpc.keepalive_time_ms": _ms(bounds.keepalive_s),
            "grpc.keepalive_timeout_ms": _ms(bounds.keepalive_timeout_s),
            # Without this one an unanswered ping ends the connection only after a minute.
            "grpc.http2.ping_timeout_ms": _ms(bounds.keepalive_timeout_s),
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.max_pings_without_data": 0,
            "grpc.http2.min_ping_interval_without_data_ms": _ms(bounds.client_ping_interval_s),
        }
        if bounds.connection_idle_s:
            options["grpc.max_connection_idle_ms"] = _ms(bounds.connection_idle_s)
        if bounds.connection_age_s:
            options["grpc.max_connection_age_ms"] = _ms(bounds.connection_age_s)
            options["grpc.max_connection_age_grace_ms"] = _ms(bounds.age_grace_s)
        return list(options.items())

    def open(self, server: grpc.Server | grpc.aio.Server) -> list[str]:
        """Binds every address and returns them, with the ports that were chosen where 0 was asked.

        Raises ConfigurationError naming the setting where one cannot be bound.
        """
        return [self._open(server, address) for address in self.addresses]

    def _open(self, server: grpc.Server | grpc.aio.Server, address: str) -> str:
        try:
            if is_unix(address):
                with socket_file(address, mode=self.socket_mode, setting=self.setting):
                    server.add_insecure_port(address)
                return address
            if self.tls is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, _credentials(self.tls))
        except RuntimeError as error:
            raise ConfigurationError(
                f"{self.setting}: cannot listen on {address}: {error}", field=self.setting
            ) from None
        return f"{address.rpartition(':')[0]}:{port}"


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials of one port. Each port needs its own: grpc asks by port whether there is anything new."""
    shown = tls.certificates.current

    def configuration(identity: TlsIdentity) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(identity.key, identity.certificate)], root_certificates=tls.client_ca(identity)
        )

    def changed() -> grpc.ServerCertificateConfiguration:
        nonlocal shown
        current = tls.certificates.current
        if current is shown:
            # The stubs leave out that None means unchanged.
            return None  # type: ignore[return-value]
        shown = current
        return configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        configuration(shown), changed, require_client_authentication=tls.client_ca(shown) is not None
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
