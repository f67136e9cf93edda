"""ModelInfer of one tensor: how it is sent, what is answered, and every way in which it can be wrong."""

import grpc

from server.engine import texts
from tests.conformance.answers import inferred
from tests.conformance.case import Case, refused, refused_by_grpc
from tests.conformance.cases.echo import ANSWERED, ECHO, ON_ECHO, ROW, infer_case
from tests.conformance.graphs import lookup_graph
from tests.conformance.requests import BROKEN, INFER, infer, nested, raw, typed, unpacked_floats, unpacked_varints
from tests.conformance.served import one, tensor, version
from tests.support.models import echo_model
from tickserve.errors import Code

FIVE_ROWS = [[0.1, -2.5, 7.25], [1e-3, 1e3, -1e-30], [0, -0.0, 1], [3, 1, 2], [0.7, 0.7, 0.7]]


def _unpacked_request() -> bytes:
    """The fields of a request with a tag for each dimension and each float."""
    contents = nested(5, unpacked_floats(6, 7.0, 8.0, 9.0))
    tensor_bytes = nested(1, b"features") + nested(2, b"FP32") + unpacked_varints(3, 1, 3) + contents
    return nested(1, b"echo") + nested(5, tensor_bytes)


ANSWERS = (
    infer_case("one row", infer(ROW), ANSWERED),
    infer_case("id is echoed", infer(ROW, request_id="a-1"), inferred(ECHO, features=[[1, 2, 3]], request_id="a-1")),
    infer_case(
        "longest id that is allowed",
        infer(ROW, request_id="i" * 64),
        inferred(ECHO, features=[[1, 2, 3]], request_id="i" * 64),
    ),
    infer_case("most rows that are allowed", infer(raw(FIVE_ROWS[:4])), inferred(ECHO, features=FIVE_ROWS[:4])),
    infer_case("one row after several", infer(raw([[4, 5, 6]])), inferred(ECHO, features=[[4, 5, 6]])),
    infer_case(
        "typed and packed", infer(typed([[4, 5, 6]], "FP32", "fp32_contents")), inferred(ECHO, features=[[4, 5, 6]])
    ),
    infer_case("typed and unpacked", _unpacked_request(), inferred(ECHO, features=[[7, 8, 9]])),
    infer_case("last value of a repeated field holds", nested(1, b"nope") + infer(ROW), ANSWERED),
    infer_case("unknown field", infer(ROW) + nested(15, b"later"), ANSWERED),
    infer_case("version that is pinned", infer(ROW, version="1"), ANSWERED),
    infer_case("output asked for", infer(ROW, outputs=["values"]), ANSWERED),
)

REFUSALS = (
    infer_case("bytes that are no message", BROKEN, refused(texts.MALFORMED, by="", message="ModelInferRequest")),
    infer_case(
        "text that is not UTF-8", nested(1, b"\xff"), refused(texts.MALFORMED, by="", message="ModelInferRequest")
    ),
    infer_case("empty message", b"", refused(texts.UNKNOWN_MODEL, by="", at="model", model="", known="echo")),
    infer_case(
        "unknown model",
        infer(ROW, model="nope"),
        refused(texts.UNKNOWN_MODEL, by="", at="model", model="nope", known="echo"),
    ),
    infer_case(
        "unknown model with a long name is cut",
        infer(ROW, model="n" * 1000),
        refused(texts.UNKNOWN_MODEL, by="", at="model", model="n" * 64, known="echo"),
    ),
    infer_case(
        "unknown version",
        infer(ROW, version="7"),
        refused(texts.UNKNOWN_VERSION, by="echo", at="version", version="7", model="echo", known="1"),
    ),
    infer_case(
        "id that is too long",
        infer(ROW, request_id="i" * 65),
        refused(texts.TOO_LONG, by="echo", at="id", name="id", size=65, bound=64),
    ),
    infer_case(
        "datatype",
        infer(raw([[1, 2, 3]], "FP64")),
        refused(texts.DATATYPE, at="features", tensor="features", got="FP64", expected="FP32"),
    ),
    infer_case(
        "rank",
        infer(raw([1, 2, 3])),
        refused(texts.RANK, at="features", tensor="features", got=[3], rank=2, expected=[-1, 3]),
    ),
    infer_case(
        "dimension",
        infer(raw([[1, 2, 3, 4]])),
        refused(texts.DIMENSION, at="features", tensor="features", got=[1, 4], expected=[-1, 3]),
    ),
    infer_case(
        "negative dimension",
        infer(raw([[1, 2, 3]], shape=(-1, 3))),
        refused(texts.DIMENSION, at="features", tensor="features", got=[-1, 3], expected=[-1, 3]),
    ),
    infer_case(
        "no rows",
        infer(raw([], shape=(0, 3), raw=b"")),
        refused(texts.EMPTY, at="features", tensor="features", got=[0, 3]),
    ),
    infer_case(
        "one row too many",
        infer(raw(FIVE_ROWS)),
        refused(texts.TOO_MANY_ROWS, at="features", got=5, model="echo", bound=4),
    ),
    infer_case(
        "raw contents one byte short",
        infer(raw([[1, 2, 3]], raw=bytes(11))),
        refused(texts.RAW_LENGTH, at="features", tensor="features", got=11, expected=12, datatype="FP32", shape=[1, 3]),
    ),
    infer_case(
        "raw contents one byte long",
        infer(raw([[1, 2, 3]], raw=bytes(13))),
        refused(texts.RAW_LENGTH, at="features", tensor="features", got=13, expected=12, datatype="FP32", shape=[1, 3]),
    ),
    infer_case(
        "raw and typed",
        infer(raw([[1, 2, 3]], typed={"fp32_contents": [1, 2, 3]})),
        refused(texts.RAW_AND_TYPED, at="features", tensor="features"),
    ),
    infer_case(
        "more raw contents than inputs",
        infer(ROW) + nested(7, b""),
        refused(texts.RAW_COUNT, at="raw_input_contents", got=2, expected=1),
    ),
    infer_case(
        "fewer raw contents than inputs",
        infer(ROW, typed([[1, 2, 3]], "FP32", "fp32_contents", "other")),
        refused(texts.RAW_COUNT, at="raw_input_contents", got=1, expected=2),
    ),
    infer_case(
        "no contents",
        infer(raw([[1, 2, 3]], raw=None)),
        refused(
            texts.TYPED_LENGTH,
            at="features",
            tensor="features",
            got=0,
            field="fp32_contents",
            expected=3,
            datatype="FP32",
            shape=[1, 3],
        ),
    ),
    infer_case(
        "too few typed elements",
        infer(typed([[1]], "FP32", "fp32_contents", shape=(1, 3))),
        refused(
            texts.TYPED_LENGTH,
            at="features",
            tensor="features",
            got=1,
            field="fp32_contents",
            expected=3,
            datatype="FP32",
            shape=[1, 3],
        ),
    ),
    infer_case(
        "no inputs", infer(), refused(texts.INPUT_MISSING, at="features", tensor="features", expected="features")
    ),
    infer_case(
        "unknown input",
        infer(ROW, raw([[1, 2, 3]], name="other")),
        refused(texts.INPUT_UNKNOWN, at="other", tensor="other", expected="features"),
    ),
    infer_case("input twice", infer(ROW, ROW), refused(texts.INPUT_TWICE, at="features", tensor="features")),
    infer_case(
        "unknown output",
        infer(ROW, outputs=["other"]),
        refused(texts.OUTPUT_UNKNOWN, at="other", tensor="other", expected="values"),
    ),
    infer_case(
        "output twice",
        infer(ROW, outputs=["values", "values"]),
        refused(texts.OUTPUT_TWICE, at="values", tensor="values"),
    ),
    infer_case(
        "NaN",
        infer(raw([[0, float("nan"), 0]])),
        refused(
            texts.FEATURE_NOT_FINITE,
            at="rsi",
            also=["finite:features reject"],
            tensor="features",
            row=0,
            column=1,
            feature="rsi",
            value=float("nan"),
        ),
    ),
    infer_case(
        "infinity in the second row",
        infer(raw([[1, 2, 3], [0, 0, float("-inf")]])),
        refused(
            texts.FEATURE_NOT_FINITE,
            at="volume",
            also=["finite:features reject"],
            tensor="features",
            row=1,
            column=2,
            feature="volume",
            value=float("-inf"),
        ),
    ),
)

_WIDE = version(
    lookup_graph(1000),
    "wide",
    inputs=(tensor("index", "INT64", -1, 1),),
    outputs=(tensor("values", "FP32", -1, 1, 1000),),
    feature_names=(),
)
#: Its answers may have 8192 bytes, less what a stream puts around one.
_NARROW = one(_WIDE, name="eight kilobytes", bounds={"max_message_bytes": 8192})
_BEYOND = inferred(_WIDE, index=[[1], [2]])

BOUNDS = (
    Case(
        "answer within the bound",
        _NARROW,
        INFER,
        (infer(raw([[1]], "INT64", "index"), model="wide"),),
        inferred(_WIDE, index=[[1]]),
    ),
    Case(
        "answer over the bound",
        _NARROW,
        INFER,
        (infer(raw([[1], [2]], "INT64", "index"), model="wide"),),
        refused(texts.ANSWER_TOO_LONG, by="wide/1 stable", size=_BEYOND.replies[0].message.ByteSize(), bound=8192 - 32),
    ),
    Case("compressed message", ON_ECHO, INFER, (infer(ROW),), ANSWERED, compression=grpc.Compression.Gzip),
    Case(
        "message over the bound",
        ON_ECHO,
        INFER,
        (infer(ROW, parameters={"padding": "x" * (1 << 20)}),),
        refused_by_grpc(Code.RESOURCE_EXHAUSTED),
    ),
    Case(
        "message of 5 MB where 4 are allowed",
        one(ECHO, name="four megabytes", bounds={"max_message_bytes": 4 << 20}),
        INFER,
        (infer(ROW, parameters={"padding": "x" * (5 << 20)}),),
        refused_by_grpc(Code.RESOURCE_EXHAUSTED),
    ),
    Case(
        "name of a column that is too long for a status",
        one(version(echo_model(), feature_names=("f" * 5000, "g", "h")), name="long names"),
        INFER,
        (infer(raw([[float("nan"), 0, 0]])),),
        refused(
            texts.FEATURE_NOT_FINITE,
            at="f" * 5000,
            also=["finite:features reject"],
            tensor="features",
            row=0,
            column=0,
            feature="f" * 5000,
            value=float("nan"),
        ),
    ),
)


#: Each is one message, and may as well be a message of a stream.
MESSAGES = (*ANSWERS, *REFUSALS)
CASES = (*MESSAGES, *BOUNDS)
