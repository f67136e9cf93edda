"""File descriptors: enough of them for the connections that the settings allow."""

import resource

import structlog

_log = structlog.get_logger()
#: What the process itself holds: libraries, logs, sockets that listen, the HTTP port's connections.
_OWN = 128


def provide_descriptors(connections: int) -> None:
    """Raises the soft limit as far as `connections` need, and says so where the hard one is too low for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OWN
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    if reachable < needed:
        _log.warning(
            "too_few_descriptors",
            limit=reachable,
            needed=needed,
            do="raise the limit (ulimit -n, LimitNOFILE) or lower max_connections",
        )
