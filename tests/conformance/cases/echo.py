"""The echo model, which most cases ask: it gives its three features back, for at most four rows."""

from mlops.package import Limits
from tests.conformance.answers import inferred
from tests.conformance.case import Case, Expected
from tests.conformance.requests import INFER, raw
from tests.conformance.served import one, version
from tests.support.models import echo_model

ECHO = version(echo_model(), limits=Limits(max_rows=4))
ON_ECHO = one(ECHO)
ROW = raw([[1, 2, 3]])
#: What ROW comes to.
ANSWERED = inferred(ECHO, features=[[1, 2, 3]])


def infer_case(name: str, request: bytes, expected: Expected) -> Case:
    """One ModelInfer of the echo model."""
    return Case(name, ON_ECHO, INFER, (request,), expected)
