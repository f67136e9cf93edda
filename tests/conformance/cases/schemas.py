"""ModelInfer of other schemas: two inputs and outputs, open and fixed dimensions, figures, and runs that fail."""

from server.engine import texts
from tests.conformance.answers import inferred
from tests.conformance.case import Case, Expected, refused
from tests.conformance.cases.infer import FIVE_ROWS
from tests.conformance.graphs import dense_graph, identity_graph, lookup_graph
from tests.conformance.requests import INFER, infer, raw
from tests.conformance.served import one, tensor, version
from tests.support.models import first_row_model, mixed_model

MIXED = version(
    mixed_model(),
    inputs=(tensor("price", "FP32", -1, 2), tensor("size", "INT64", -1, 1)),
    outputs=(tensor("sum", "FP32", -1, 2), tensor("count", "INT64", -1, 1)),
    feature_names=(),
    feature_digest=b"",
)
ON_MIXED = one(MIXED, name="two inputs")
PRICE, SIZE = raw([[0.5, 1.5]], name="price"), raw([[10]], "INT64", "size")
ANY_WIDTH = version(
    identity_graph("FP32", ("rows", "width")),
    "any-width",
    inputs=(tensor("features", "FP32", -1, -1),),
    outputs=(tensor("values", "FP32", -1, -1),),
    feature_names=(),
)
NO_ROWS = version(
    identity_graph("FP32", (2, 2)),
    "no-rows",
    inputs=(tensor("features", "FP32", 2, 2),),
    outputs=(tensor("values", "FP32", 2, 2),),
    feature_names=(),
)
DENSE = version(dense_graph(), "dense")
LOOKUP = version(
    lookup_graph(),
    "lookup",
    inputs=(tensor("index", "INT64", -1, 1),),
    outputs=(tensor("values", "FP32", -1, 1),),
    feature_names=(),
)
FIRST_ROW = version(first_row_model(), "first-row")
ON_SHAPES = one(ANY_WIDTH, NO_ROWS, DENSE, LOOKUP, FIRST_ROW, name="shapes")


def _mixed(name: str, request: bytes, expected: Expected) -> Case:
    return Case(name, ON_MIXED, INFER, (request,), expected)


def _shaped(name: str, request: bytes, expected: Expected) -> Case:
    return Case(name, ON_SHAPES, INFER, (request,), expected)


TWO_INPUTS = (
    _mixed("inputs in the model's order", infer(PRICE, SIZE), inferred(MIXED, price=[[0.5, 1.5]], size=[[10]])),
    _mixed("inputs in another order", infer(SIZE, PRICE), inferred(MIXED, price=[[0.5, 1.5]], size=[[10]])),
    _mixed(
        "outputs in the order asked for",
        infer(PRICE, SIZE, outputs=["count", "sum"]),
        inferred(MIXED, price=[[0.5, 1.5]], size=[[10]], outputs=["count", "sum"]),
    ),
    _mixed(
        "one of two outputs",
        infer(PRICE, SIZE, outputs=["count"]),
        inferred(MIXED, price=[[0.5, 1.5]], size=[[10]], outputs=["count"]),
    ),
    _mixed(
        "one of two inputs",
        infer(PRICE),
        refused(texts.INPUT_MISSING, at="size", tensor="size", expected="price, size"),
    ),
    _mixed(
        "rows that differ",
        infer(PRICE, raw([[10], [11]], "INT64", "size")),
        refused(texts.ROWS_DIFFER, at="size", tensor="size", got=2, expected=1),
    ),
    _mixed(
        "NaN where columns have no names",
        infer(raw([[0, 1], [float("nan"), 2]], name="price"), raw([[1], [2]], "INT64", "size")),
        refused(
            texts.NOT_FINITE,
            at="price",
            also=["finite:price reject"],
            tensor="price",
            row=1,
            column=0,
            value=float("nan"),
        ),
    ),
)

SHAPES = (
    *(
        _shaped(f"open width, {what}", infer(raw([row]), model="any-width"), inferred(ANY_WIDTH, features=[row]))
        for what, row in (("narrow", [1, 2]), ("wide", [1, 2, 3, 4, 5]), ("narrow again", [1, 2]))
    ),
    _shaped(
        "dimension of zero that is not the rows",
        infer(raw([[]], raw=b""), model="any-width"),
        refused(texts.EMPTY, by="any-width/1 stable", at="features", tensor="features", got=[1, 0]),
    ),
    _shaped(
        "tensor without rows",
        infer(raw([[1, 2], [3, 4]]), model="no-rows"),
        inferred(NO_ROWS, features=[[1, 2], [3, 4]]),
    ),
    _shaped(
        "figures of one row, to the last bit",
        infer(raw(FIVE_ROWS[:1]), model="dense"),
        inferred(DENSE, features=FIVE_ROWS[:1]),
    ),
    _shaped(
        "figures of several rows, to the last bit",
        infer(raw(FIVE_ROWS), model="dense"),
        inferred(DENSE, features=FIVE_ROWS),
    ),
    _shaped(
        "index that the model knows",
        infer(raw([[3], [0]], "INT64", "index"), model="lookup"),
        inferred(LOOKUP, index=[[3], [0]]),
    ),
    _shaped(
        "run that fails tells nothing",
        infer(raw([[4]], "INT64", "index"), model="lookup"),
        refused(texts.INTERNAL, by="lookup/1 stable"),
    ),
    _shaped(
        "output with fewer rows than asked for",
        infer(raw([[1, 2, 3], [4, 5, 6]]), model="first-row"),
        refused(
            texts.OUTPUT_RULE,
            by="first-row/1 stable",
            at="values",
            also=["shape:values reject"],
            rule="shape:values",
            version="1",
            model="first-row",
        ),
    ),
)

CASES = (*TWO_INPUTS, *SHAPES)
