"""What the data listener does not offer: calls that change state, the rest of the protocol, and what nobody knows."""

from server.engine import texts
from tests.conformance.case import Case, Expected, refused, refused_by_grpc
from tests.conformance.cases.echo import ON_ECHO
from tests.conformance.requests import BROKEN
from tickserve.errors import Code
from tickserve.v1 import control_pb2

OIP = "/inference.GRPCInferenceService/"
CONTROL = control_pb2.DESCRIPTOR.services_by_name["Control"]
CHANGING = (
    *(f"/{CONTROL.full_name}/{method.name}" for method in CONTROL.methods),
    *(OIP + name for name in ("RepositoryModelLoad", "RepositoryModelUnload")),
)
NOT_OFFERED = (
    *(
        OIP + name
        for name in ("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister")
    ),
    *(OIP + name for name in ("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister")),
    *(OIP + name for name in ("TraceSetting", "LogSettings", "NoSuchMethod")),
    "/no.such.Service/Method",
    "/tickserve.v1.Outcomes/Report",
)


def _case(name: str, method: str, data: bytes, expected: Expected) -> Case:
    return Case(name, ON_ECHO, method, (data,), expected)


CASES = (
    *(_case("changes state", method, b"", refused(texts.ADMIN_ONLY)) for method in CHANGING),
    *(_case("changes state, whatever it says", method, BROKEN, refused(texts.ADMIN_ONLY)) for method in CHANGING),
    *(_case("not offered", method, b"", refused_by_grpc(Code.UNIMPLEMENTED)) for method in NOT_OFFERED),
)
