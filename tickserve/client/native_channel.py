"""What the blocking and the asyncio transport over the Rust extension have in common."""

from __future__ import annotations

import contextlib
import sys
import threading
from importlib import resources
from typing import Any, TypeAlias

from tickserve.address import is_unix, split_host
from tickserve.client.tls_files import read_tls
from tickserve.client.transport import MAX_ANSWER_BYTES, CallError, Tls
from tickserve.errors import Code, ConfigurationError

#: The format of what goes to and fro; the extension must have the same.
CLIENT_FORMAT = 2

#: How the extension says that a call failed: code, message, trailers, whether the request was sent.
Failed: TypeAlias = tuple[int, str, list[tuple[str, str]], bool]

_loading = threading.Lock()
_CODES = {int(code): code for code in Code if code is not Code.OK}


def find_native() -> Any:
    """The extension module.

    Raises ConfigurationError where it is not installed, does not start here, or is of another format.
    """
    _load_on_a_thread_that_stays()
    try:
        import tickserve_native as module
    except ImportError as error:
        raise ConfigurationError(
            f"the native client cannot be imported ({error}); install tickserve-native, or take transport='grpcio'",
            field="transport",
        ) from None
    found = getattr(module, "CLIENT_FORMAT", None)
    if found != CLIENT_FORMAT:
        raise ConfigurationError(
            f"tickserve-native has format {found} of the client, this tickserve needs {CLIENT_FORMAT}; install the "
            "two of one release, or take transport='grpcio'",
            field="transport",
        )
    return module


def _load_on_a_thread_that_stays() -> None:
    """Loads the extension from another thread than this one, which may end, unless this is the main one.

    Its allocator (mimalloc 3) takes the thread that loads it for the main one. Once that has ended, the next thread
    that is given its number by the system crashes.
    """
    with _loading:
        if "tickserve_native" in sys.modules or threading.current_thread() is threading.main_thread():
            return
        tried = threading.Event()

        def load() -> None:
            try:
                # Whoever asked imports it again, and hears what is wrong with it.
                with contextlib.suppress(ImportError):
                    import tickserve_native  # noqa: F401
            finally:
                tried.set()
            if "tickserve_native" in sys.modules:
                threading.Event().wait()

        threading.Thread(target=load, name="tickserve-native", daemon=True).start()
        tried.wait()


def connect(address: str, tls: Tls | None) -> Any:
    """A channel to `address`; nothing is connected yet. Raises ConfigurationError."""
    module = find_native()
    host, port, path = ("", 0, address.removeprefix("unix:")) if is_unix(address) else (*split_host(address), None)
    given = None
    if tls is not None:
        files = read_tls(tls)
        identity = None if files.certificate is None else (files.certificate, files.key)
        given = (files.authorities or _default_roots(), identity)
    try:
        return module.ClientChannel(
            host=host,
            port=port,
            path=path,
            tls=given,
            server_name=None if tls is None else tls.server_name,
            max_message_bytes=MAX_ANSWER_BYTES,
        )
    except ValueError as error:
        field = "address" if tls is None else "tls"
        raise ConfigurationError(f"{field}: {error}", field=field) from None


def call_error(failed: Failed) -> CallError:
    """The same, for everyone."""
    code, message, trailers, request_sent = failed
    return CallError(_CODES.get(code, Code.UNKNOWN), message, trailers=dict(trailers), never_left=not request_sent)


def _default_roots() -> bytes:
    return resources.files("grpc._cython").joinpath("_credentials/roots.pem").read_bytes()
