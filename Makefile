# Two commands on a fresh machine: `make demo` and `make test`. Each does all of its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: setup demo test lint types suite sweep bench fuzz clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("skerry needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Stock Yjs clients for tests/interop: installed where npm is, and named in a skip where it is not.
tests/interop/node_modules/.ready: tests/interop/package.json
	@if command -v npm >/dev/null; then \
	  npm install --prefix tests/interop --no-audit --no-fund --no-package-lock --loglevel=error && touch $@; \
	else echo "npm is not here: the tests with stock Yjs clients will be skipped by name"; fi

demo: setup
	@$(BIN)/skerry demo $(ARGS)

test: setup tests/interop/node_modules/.ready lint types suite

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy --strict

suite: setup
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

# A long simulation by hand: make sweep ARGS='--seeds 100000'
sweep: setup
	$(BIN)/python -m tests.simulation.sweep $(ARGS)

# What it costs, side by side with the peers: make bench ARGS='--quick --cases 1'
bench: $(VENV)/.bench-ready
	$(BIN)/skerry bench --out bench-results $(ARGS)

$(VENV)/.bench-ready: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

# A long fuzzing by hand: make fuzz ARGS='--inputs 1000000 --seed 7'
fuzz: setup
	$(BIN)/python -m tests.fuzz $(ARGS)

clean:
	rm -rf $(VENV) tests/interop/node_modules .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
