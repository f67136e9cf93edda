# `make run` shows the whole path on real data; `make test` proves it. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := tickserve server mlops benchmarks tests protos examples native
CARGO := $(shell command -v cargo 2>/dev/null)
IN_NATIVE := cd native && cargo

.PHONY: setup native native-if-cargo proto format lint type test integration soak studies bench run serve examples check clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), about two minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train,registry,sidecar,dev]'
	@touch $@

native: setup
	@$(BIN)/python native/build.py

# The python engine needs no tool chain; the native one is built and tested wherever there is one.
native-if-cargo: setup
ifdef CARGO
	@$(MAKE) --no-print-directory native
else
	@echo "no cargo here: the native engine is left out, the python engine serves"
endif

proto: setup
	$(BIN)/python protos/generate.py

format: setup
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)
ifdef CARGO
	$(IN_NATIVE) fmt --all
endif

lint: setup
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/python protos/generate.py --check
ifdef CARGO
	$(IN_NATIVE) fmt --all --check
	$(IN_NATIVE) clippy --quiet --locked --all-targets -- -D warnings
endif

type: setup
	$(BIN)/mypy

test: native-if-cargo
ifdef CARGO
	$(IN_NATIVE) test --quiet --locked
endif
	$(BIN)/pytest -m "not integration" --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

integration: native-if-cargo
	tests/integration/install-clients
	PATH="$(CURDIR)/.build/bin:$$PATH" $(BIN)/pytest -m integration

bench: native-if-cargo
	$(BIN)/python -m benchmarks.run --chart docs/benchmarks.svg
	$(BIN)/python -m benchmarks.registry
	$(BIN)/python -m benchmarks.sidecar
	$(BIN)/python -m benchmarks.client

soak: native-if-cargo
	$(BIN)/python -m benchmarks.soak $(SCENARIO)

studies: native-if-cargo
ifdef CARGO
	$(BIN)/python -m benchmarks.studies.native_fuzz
endif
	$(BIN)/python -m benchmarks.studies.gate_levels
	$(BIN)/python -m benchmarks.studies.sp500_drift
	$(BIN)/python -m benchmarks.studies.drift_levels
	$(BIN)/python -m benchmarks.studies.alert_rows
	$(BIN)/python -m benchmarks.studies.routing_shares
	$(BIN)/python -m benchmarks.studies.rollout_levels
	$(BIN)/python -m benchmarks.studies.blue_green_levels

run: setup
	@$(BIN)/tickserve demo

serve: setup
	@$(BIN)/tickserve demo --serve

examples: setup
	examples/run $(EXAMPLES)

check: lint type test examples

clean:
	rm -rf $(VENV) .venv-* .build native/target examples/*/build .tickserve .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
