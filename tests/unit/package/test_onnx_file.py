"""The graph's schema, and external data in every place where ONNX allows a tensor."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlops.package import TensorSpec, read_graph
from mlops.package.onnx_parts import take_apart
from tests.unit.package.builders import linear_model
from tickserve.errors import PackageError


def elsewhere(name: str = "elsewhere") -> Any:
    """A tensor whose data lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../secret")
    return tensor


def sparse(*, values: Any = None, indices: Any = None) -> Any:
    here = helper.make_tensor("here", TensorProto.FLOAT, [1], [1.0])
    return onnx.SparseTensorProto(values=values or here, indices=indices or here, dims=[1])


def node(**attribute: Any) -> Any:
    return onnx.NodeProto(op_type="Constant", output=["constant"], attribute=[onnx.AttributeProto(**attribute)])


def inner(*nodes: Any, initializer: Any = ()) -> Any:
    return onnx.GraphProto(name="inner", node=nodes, initializer=initializer)


def location_only() -> Any:
    return TensorProto(name="elsewhere", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)


def keys_only() -> Any:
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.FLOAT)
    tensor.external_data.add(key="location", value="x")
    return tensor


PLACES: dict[str, Callable[[Any], Any]] = {
    "initializer": lambda m: m.graph.initializer.append(elsewhere()),
    "location without entries": lambda m: m.graph.initializer.append(location_only()),
    "entries without location": lambda m: m.graph.initializer.append(keys_only()),
    "sparse values": lambda m: m.graph.sparse_initializer.append(sparse(values=elsewhere())),
    "sparse indices": lambda m: m.graph.sparse_initializer.append(sparse(indices=elsewhere())),
    "attribute tensor": lambda m: m.graph.node.append(node(name="value", t=elsewhere())),
    "attribute tensors": lambda m: m.graph.node.append(node(name="value", tensors=[elsewhere()])),
    "attribute sparse": lambda m: m.graph.node.append(node(name="v", sparse_tensor=sparse(values=elsewhere()))),
    "attribute sparse list": lambda m: m.graph.node.append(
        node(name="v", sparse_tensors=[sparse(indices=elsewhere())])
    ),
    "sub-graph": lambda m: m.graph.node.append(node(name="body", g=inner(initializer=[elsewhere()]))),
    "sub-graphs": lambda m: m.graph.node.append(node(name="body", graphs=[inner(node(name="v", t=elsewhere()))])),
    "nested sub-graph": lambda m: m.graph.node.append(
        node(name="body", g=inner(node(name="body", g=inner(initializer=[elsewhere()]))))
    ),
    "function": lambda m: m.functions.add(name="f").node.append(node(name="value", t=elsewhere())),
    "function in sub-graph": lambda m: m.functions.add(name="f").node.append(
        node(name="body", g=inner(initializer=[elsewhere()]))
    ),
    "function's attribute default": lambda m: m.functions.add(name="f").attribute_proto.add(name="v", t=elsewhere()),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_refused_wherever_it_is(place: str) -> None:
    def edit(model: Any) -> None:
        PLACES[place](model)

    with pytest.raises(PackageError, match="'elsewhere' lies in another file"):
        read_graph(linear_model(edit))


def large(model: Any) -> None:
    """As a tree ensemble is: an operator with a long list of numbers."""
    model.graph.node.append(node(name="nodes_nodeids", type=onnx.AttributeProto.INTS, ints=[300] * 500_000))


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_refused_wherever_it_is_in_a_large_file(place: str) -> None:
    def edit(model: Any) -> None:
        large(model)
        PLACES[place](model)

    model = linear_model(edit)
    assert take_apart(model) is not None
    with pytest.raises(PackageError, match="'elsewhere' lies in another file"):
        read_graph(model)


def test_nothing_of_a_large_file_is_left_out_or_changed() -> None:
    model = onnx.ModelProto.FromString(linear_model(large))
    # Several graphs are one whose parts are merged.
    data = model.SerializeToString() + onnx.ModelProto(graph=inner(node(name="late", i=1))).SerializeToString()
    parts = take_apart(data)
    assert parts is not None
    rest, attributes = parts
    expected = onnx.ModelProto.FromString(data)
    found = [onnx.AttributeProto.FromString(bytes(each)) for each in attributes]
    assert found == [each for operator in expected.graph.node for each in operator.attribute]
    del expected.graph.node[:]
    assert onnx.ModelProto.FromString(rest) == expected
    assert read_graph(data) == read_graph(linear_model())


def test_no_byte_less_of_a_large_file_is_taken_for_whole() -> None:
    model = linear_model(large)
    for cut in (1, 2, 1000, len(model) // 2, len(model) - 3):
        with pytest.raises(PackageError, match="no ONNX file, or is cut short"):
            read_graph(model[:-cut])


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a\xff",  # a length that goes on
        b"\x3a\x05\x0a",  # a graph that is cut short
        b"\x3a\x02\x0a\x09",  # an operator that is cut short
        b"\x38\x01",  # a graph that is a number
        b"\x3a\x02\x08\x01",  # an operator that is a number
        b"\x3b\x3c",  # a group
        b"\x80" * 11,
    ],
)
def test_what_is_not_as_expected_is_left_to_the_parser(data: bytes) -> None:
    assert take_apart(data) is None


def test_a_training_graph_is_refused() -> None:
    def edit(model: Any) -> None:
        model.training_info.add().initialization.initializer.append(elsewhere())

    with pytest.raises(PackageError, match="training graph"):
        read_graph(linear_model(edit))


def test_schema_is_that_of_the_graph() -> None:
    schema = read_graph(linear_model())

    assert schema.inputs == (TensorSpec(name="features", datatype="FP32", shape=(-1, 3)),)
    assert schema.outputs == (TensorSpec(name="prediction", datatype="FP32", shape=(-1, 1)),)


def test_open_dimensions_are_minus_one_however_they_are_written() -> None:
    def edit(model: Any) -> None:
        dimensions = model.graph.input[0].type.tensor_type.shape.dim
        dimensions[0].Clear()
        dimensions.add().dim_param = "steps"
        dimensions.add().dim_value = -1
        dimensions.add().dim_value = 7

    assert read_graph(linear_model(edit)).inputs[0].shape == (-1, 3, -1, -1, 7)


def test_an_initializer_that_is_listed_as_input_is_no_input() -> None:
    def edit(model: Any) -> None:
        model.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [3, 1]))

    assert [spec.name for spec in read_graph(linear_model(edit)).inputs] == ["features"]


def no_shape(model: Any) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def sequence_output(model: Any) -> None:
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1])))


def complex_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.COMPLEX64


def no_inputs(model: Any) -> None:
    del model.graph.input[:]


def no_outputs(model: Any) -> None:
    del model.graph.output[:]


def nameless_output(model: Any) -> None:
    model.graph.output[0].name = ""


def endless_dimension(model: Any) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2**60


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nameless_output, "name"),
        (endless_dimension, "shape"),
        (no_shape, "declares no shape"),
        (sequence_output, "is no tensor"),
        (complex_input, "cannot be served"),
        (no_inputs, "no inputs"),
        (no_outputs, "no graph with outputs"),
    ],
)
def test_a_graph_that_cannot_be_served_says_why(edit: Callable[[Any], None], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        read_graph(linear_model(edit))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\xff" * 64, b"not a model at all", linear_model()[:-1]])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(PackageError):
        read_graph(data)


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(PackageError, match="name"):
        read_graph(linear_model().replace(b"prediction", b"pred\xff\xfetion"))


def message(field: int, body: bytes) -> bytes:
    """A length-delimited protobuf field, by hand: no library writes messages this deep."""
    length, digits = len(body), bytearray()
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    return bytes([field << 3 | 2, *digits, length]) + body


def test_sub_graphs_nested_beyond_reason_are_refused() -> None:
    nested = b""
    for _ in range(2_000):
        nested = message(1, message(5, message(6, nested)))  # graph.node.attribute.g
    with pytest.raises(PackageError, match="no ONNX file"):
        read_graph(linear_model() + message(7, nested))


def test_schema_agrees_with_the_reference_implementation() -> None:
    """Datatypes are numbered as in onnx itself."""
    from mlops.package.datatypes import BY_ONNX_NUMBER, numpy_dtype

    for number, datatype in BY_ONNX_NUMBER.items():
        if datatype != "BYTES":
            assert numpy_dtype(datatype) == np.dtype(helper.tensor_dtype_to_np_dtype(number))


def test_reading_packages_imports_no_runtime() -> None:
    program = (
        "import sys, mlops.package\n"
        "print([name for name in ('onnxruntime', 'onnx', 'sklearn', 'pandas', 'xgboost') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
