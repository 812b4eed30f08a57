# Two commands do everything on a fresh machine with Python 3.11 or newer: `make run` and `make test`.
PYTHON ?= python3
LOCK ?= requirements-cpu.lock
STORE ?= orl-store
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-cluster test-all lint types lock clean

# The main job on generated scenes: ends in a report.
run: $(VENV)/installed
	$(BIN)/python jobs/full_pipeline.py --preset laptop execution.store=$(STORE)

# Fast tests, then the small ones that start Ray once.
test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not cluster"

# Tests with Ray clusters of their own: killed drivers and workers, several workers, several drivers.
test-cluster: $(VENV)/installed
	$(BIN)/python -m pytest -m cluster

test-all: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

# Everything is installed from the lock, hash by hash; `make LOCK=requirements-gpu.lock run` on a machine with a GPU.
$(VENV)/installed: pyproject.toml $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lock: $(VENV)/installed
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-header --extra cpu --extra dev -o requirements-cpu.lock
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-header --extra gpu --extra dev -o requirements-gpu.lock

clean:
	rm -rf $(VENV) $(STORE)
