# `make run` shows the whole path on real data; `make test` proves it. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := tickserve server mlops benchmarks tests protos examples

.PHONY: setup proto format lint type test integration studies bench run serve examples check clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), about two minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,registry,dev]'
	@touch $@

proto: setup
	$(BIN)/python protos/generate.py

format: setup
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: setup
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/python protos/generate.py --check

type: setup
	$(BIN)/mypy

test: setup
	$(BIN)/pytest -m "not integration"

integration: setup
	tests/integration/install-clients
	PATH="$(CURDIR)/.build/bin:$$PATH" $(BIN)/pytest -m integration

bench: setup
	$(BIN)/python -m benchmarks.registry
	$(BIN)/python -m benchmarks.run

studies: setup
	$(BIN)/python -m benchmarks.studies.gate_levels

run: setup
	@$(BIN)/tickserve demo

serve: setup
	@$(BIN)/tickserve demo --serve

examples: setup
	examples/run $(EXAMPLES)

check: lint type test examples

clean:
	rm -rf $(VENV) .venv-* .build examples/*/build .tickserve .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
