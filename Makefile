# Everything that people and CI do. Each target sets up what it needs in .venv, with the versions in constraints.txt.

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	command -v $$name >/dev/null && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) -q

.PHONY: demo test test-all lint format bench docs clean

demo: $(VENV)/.installed  ## run scenarios/quickstart.yaml, print its summary and the path of its report
	$(BIN)/thinkcap run quickstart

test: $(VENV)/.installed-test  ## the quick tier
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-all  ## all tiers: golden runs, torch, notebooks, many random scenarios, the built wheel
	$(PYTEST) $(TESTS)

lint: $(VENV)/.installed-dev  ## ruff, mypy strict, and the rooms of docs/architecture.md
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed-dev  ## let ruff format and mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test  ## speed, beside a bare loop on the same machine
	$(BIN)/python -m benchmarks.run

docs: $(VENV)/.installed  ## write what is generated
	$(BIN)/python docs/write.py

clean:  ## remove the virtual environment and results
	rm -rf $(VENV) runs

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.installed-all: $(VENV)/.installed
	$(PIP) --editable '.[test,notebooks,profile,kernels]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[test,dev]'
	@touch $@
