"""The engines that there are here, and which of them a test runs on."""

import importlib.util

import pytest

ENGINES = ["python", *(["native"] if importlib.util.find_spec("tickserve_native") else [])]
BEST = ENGINES[-1]
#: For what takes long: on the best engine in `make test`, on the other one too in `make integration`.
BEST_FIRST = [BEST, *(pytest.param(engine, marks=pytest.mark.integration) for engine in ENGINES if engine != BEST)]
