# Everything runs in .venv, made from constraints.txt. `make quickstart` and `make test` need nothing but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install quickstart check test test-all bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,tensorboard]" -c constraints.txt
	touch $@

quickstart: install  ## from SMILES to a fine-tuned force field and a report
	$(BIN)/basinet quickstart

check: install  ## lint, types, import contract
	$(BIN)/ruff check src tests benchmarks scripts examples
	$(BIN)/ruff format --check src tests benchmarks scripts examples
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: check  ## everything that runs in minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-all: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: install  ## beside the peers, into docs/performance.md; some 20 minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,bench]" -c constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers.py

clean:
	rm -rf $(VENV) quickstart build dist
