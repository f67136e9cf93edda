"""What reflection answers is enough to build every service with nothing else at hand."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from tests.conformance.cases.reflection import SERVICES, VERSIONS
from tests.conformance.conftest import Bench
from tickserve.wire import reflection_pb2


@pytest.mark.parametrize("version", VERSIONS)
def test_every_service_can_be_built_from_the_answers(bench: Bench, version: str) -> None:
    def described(symbol: str) -> list[bytes]:
        data = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol).SerializeToString()
        call = bench.channel.stream_stream(f"/{version}/ServerReflectionInfo")(iter([data]), timeout=60)
        response = reflection_pb2.ServerReflectionResponse.FromString(next(call))
        return list(response.file_descriptor_response.file_descriptor_proto)

    for service in SERVICES:
        files = described(service)
        pool = descriptor_pool.DescriptorPool()
        for data in reversed(files):
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        for method in pool.FindServiceByName(service).methods:
            assert described(method.full_name) == files
