"""One request as a caller gives it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from tickserve.client.features import Features


class RequestOptions(TypedDict, total=False):
    """What may go with features, as keyword arguments; see Request for what each means."""

    model: str | None
    version: str | None
    request_id: str | None
    routing_key: str | None
    entities: str | Sequence[str] | None
    event_time: datetime | int | None
    timeout_s: float | None
    steps: int | None
    default: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Features, and what goes with them.

    Parameters
    ----------
    features : array, dict, list of dicts, or DataFrame
        By position: (features,) for one row, (rows, features), or (rows, steps, features), of any real datatype;
        float32 in C order is not copied. By name: one dict for one row, a list of them, or a table with one line a
        row; the order does not matter, and a model that changes its order is followed.
    model : str, optional
        Instead of the client's own.
    version : str, optional
        Pins one version, where the server allows it.
    request_id : str, optional
        At most 64 bytes; drawn where absent. Answers and errors carry it.
    routing_key : str, optional
        At most 64 bytes; equal keys get equal versions. Absent means the request id.
    entities : str or sequence of str, optional
        What each row is about, such as the symbol.
    event_time : datetime or int, optional
        When the features were true: with a time zone, or nanoseconds since 1970 UTC.
    timeout_s : float, optional
        Instead of the client's own, in seconds.
    steps : int, optional
        For sequence models fed with two dimensions or by name: how many following lines are one row.
    default : float, optional
        The signal to go on with where no model answers, for each row. Then nothing is raised but for a request that
        would be wrong at any server: `Prediction.is_default` is True, `default_because` the error.
    """

    features: Features
    model: str | None = None
    version: str | None = None
    request_id: str | None = None
    routing_key: str | None = None
    entities: str | Sequence[str] | None = None
    event_time: datetime | int | None = None
    timeout_s: float | None = None
    steps: int | None = None
    default: float | None = None


def to_request(given: Features | Request) -> Request:
    """Features alone are a request, too."""
    return given if isinstance(given, Request) else Request(given)
