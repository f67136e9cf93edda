"""What one connection is granted on a gRPC listener; the same for every engine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Bounds of each listener, in field terms; 0 turns the idle and age bounds off.

    `max_connections` counts by listener, `max_streams` by connection. `keepalive_s` is how long a connection may be
    silent before the server pings it, `keepalive_timeout_s` how long the answer may take, `client_ping_interval_s`
    how often a client may ping. Calls on a connection that reached its age have `age_grace_s` to end.
    `max_held_bytes` bounds what all clients together make the server hold in messages that are not whole and answers
    that are not read; gRPC's own server, which the python engine and the admin listener use, cannot bound that.
    """

    max_connections: int = 1024
    max_streams: int = 128
    handshake_timeout_s: float = 10.0
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    client_ping_interval_s: float = 5.0
    connection_idle_s: float = 0.0
    connection_age_s: float = 0.0
    age_grace_s: float = 10.0
    max_held_bytes: int = 256 << 20


DEFAULT_BOUNDS = ConnectionBounds()
