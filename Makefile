# Everything runs in .venv, made from constraints.txt. `make quickstart` and `make test` need nothing but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
LOWEST := build/lowest
PY313 := build/py313

.PHONY: install quickstart check docs test test-all test-lowest test-py313 bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,tensorboard]" -c constraints.txt
	touch $@

quickstart: install  ## from SMILES to a fine-tuned force field and a report
	$(BIN)/basinet quickstart

check: install  ## lint, sizes, types, import contracts, documentation
	$(BIN)/ruff check src tests benchmarks scripts examples docs
	$(BIN)/ruff format --check src tests benchmarks scripts examples docs
	$(BIN)/python scripts/check_sizes.py
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(MAKE) docs

docs: install  ## the documentation, every warning an error, into docs/_build/html; needs no network
	$(BIN)/sphinx-build -j 2 -q -n -W --keep-going docs docs/_build/html

test: check  ## everything that runs in minutes
	$(PYTEST) -m "not slow and not gpu"

test-all: check
	$(PYTEST)

test-lowest:  ## with the oldest dependencies that pyproject.toml allows, in build/lowest; downloads them
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip compile --quiet --resolution lowest-direct --extra dev pyproject.toml -o build/lowest.txt
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python -r build/lowest.txt
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --no-deps -e .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 -m "not slow and not gpu"

test-py313:  ## on Python 3.13, in build/py313: PYTHON313=path if python3.13 is not on the path
	$(or $(PYTHON313),python3.13) -m venv $(PY313)
	$(PY313)/bin/python -m pip install --quiet torch -c constraints.txt
	$(PY313)/bin/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	OMP_NUM_THREADS=1 $(PY313)/bin/python -m pytest -n 2 -m "not slow and not gpu"

bench: install  ## beside the peers, into docs/performance.md; some 20 minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,bench]" -c constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers.py

clean:
	rm -rf $(VENV) quickstart build dist docs/_build docs/commands
