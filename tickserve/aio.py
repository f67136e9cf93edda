"""tickserve for asyncio: the client of `tickserve`, with everything that waits awaited."""

from tickserve.client.aio import Client
from tickserve.client.aio_stream import Stream

__all__ = ["Client", "Stream"]
