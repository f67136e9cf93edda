"""Every case of the conformance suite, by surface. A second engine is compared with the first case by case."""

from tests.conformance.case import Case
from tests.conformance.cases import (
    control,
    datatypes,
    describing,
    health,
    infer,
    parameters,
    predict,
    reflection,
    routing,
    rules,
    schemas,
    streams,
)

SURFACES = (
    infer,
    parameters,
    datatypes,
    schemas,
    predict,
    rules,
    routing,
    streams,
    describing,
    control,
    health,
    reflection,
)
CASES: tuple[Case, ...] = tuple(case for surface in SURFACES for case in surface.CASES)
