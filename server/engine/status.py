"""The status that an error has in grpc's own terms, for engines and the admin listener alike."""

import grpc

from tickserve.errors import TickserveError

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def grpc_status(error: TickserveError) -> grpc.StatusCode:
    """The status of a call that ends with this error."""
    return _STATUS[error.code]
