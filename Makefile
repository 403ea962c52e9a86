SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OUT ?=
INPUT ?=

.PHONY: demo test check docs bench nightly clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/developer: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[dev,cluster,dicomweb]
	@touch $@

demo: $(VENV)/installed  ## phantoms through the whole way of the data; INPUT=folder takes your own DICOM
	$(BIN)/voxtrial demo $(if $(OUT),--out "$(OUT)") $(if $(INPUT),--input "$(INPUT)")

test: $(VENV)/developer  ## all tests but the nightly ones
	$(BIN)/python -m pytest -m "not nightly" --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/developer  ## lint, types, import contracts, documentation, packaging
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/packaging tests/documentation

docs: $(VENV)/developer  ## the reference pages, written from the code
	$(BIN)/python tests/documentation/reference_pages.py

nightly: $(VENV)/developer  ## the long tests
	$(BIN)/python -m pytest -m nightly --timeout 7200

bench: $(VENV)/developer  ## every benchmark against its best peer
	@for name in $$(cd tests/benchmarks && ls bench_*.py | sed 's/^bench_//; s/\.py$$//'); do $(MAKE) --no-print-directory bench-$$name || exit 1; done

bench-%: $(VENV)/developer
	$(BIN)/python tests/benchmarks/bench_$*.py

clean:
	rm -rf $(VENV) build dist *.egg-info
