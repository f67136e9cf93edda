"""The loads that servers are put under: rows of a request, requests in flight, calls or a stream."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """One way of asking: `rows` a request, `concurrency` requests in flight, over unary calls or over one stream.

    It is measured in every so many rounds.
    """

    name: str
    rows: int = 1
    concurrency: int = 1
    is_streaming: bool = False
    every: int = 1


LOADS = {
    load.name: load
    for load in (
        Load("c=1"),
        Load("c=4", concurrency=4, every=3),
        Load("c=16", concurrency=16),
        Load("stream c=1", is_streaming=True),
        Load("64 rows c=1", rows=64, every=3),
    )
}
