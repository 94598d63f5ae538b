# make train      install, then train, evaluate and record Catcher from pixels (about a minute)
# make check      install, then lint, types and the fast tests (under two minutes on two cores)
# make test       install, then lint, types, docs and every test (some twenty minutes)
# make docs       the site, into build/docs
# make notebooks  execute the notebooks of examples/ and keep their outputs (some five minutes)
# make dist       sdist and wheel, into dist
# make bench      the benchmarks, about an hour and a half

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train check test lint types docs notebooks dist bench clean

train: $(VENV)/.installed
	$(BIN)/noisydqn train

check: lint types
	$(BIN)/python -m pytest -n 2 -m "not slow" tests/unit

test: lint types docs
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(VENV)/.installed-dev
	$(BIN)/python -m examples.make

dist: $(VENV)/.installed-dev
	$(BIN)/python -m build --no-isolation

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.torso
	$(BIN)/python -m benchmarks.notebook_update
	$(BIN)/python -m benchmarks.update
	$(BIN)/python -m benchmarks.parallel
	$(BIN)/python -m benchmarks.replay
	$(BIN)/python -m benchmarks.catcher
	$(BIN)/python -m benchmarks.throughput --peer --atari
	$(BIN)/python -m benchmarks.solve
	$(BIN)/python -m benchmarks.checkpoint
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.kills
	$(BIN)/python -m benchmarks.fuzz
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) pip
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) torch==2.13.0
	$(INSTALL) --group dev --group docs
	touch $@
