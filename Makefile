# Everything runs from .venv, built once from constraints.txt. `make help` lists the targets.

PYTHON ?= python3
SCALE ?= default
EXPERIMENT ?= all
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help reproduce run-sweep plots report list test test-all docs check format record mutations attack wheels bench clean

help:  ## list the targets
	@echo "make TARGET [SCALE=smoke|default|full] [EXPERIMENT=name|all] [PYTHON=python3.13]"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"error: {sys.executable} is Python {v.major}.{v.minor}; needed: 3.11 or newer (make PYTHON=...)")'
	@echo "building $(VENV) from constraints.txt (once, a few minutes)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(READY)

reproduce: $(READY)  ## the paper's figures and the ledger: sweeps, figures, report
	@$(RUN) -m experiments reproduce --scale $(SCALE) --experiment $(EXPERIMENT)

run-sweep: $(READY)  ## run what is not on disk yet, measure and judge
	@$(RUN) -m experiments run --scale $(SCALE) --experiment $(EXPERIMENT)

plots: $(READY)  ## draw the figures from the tables
	@$(RUN) -m experiments plot --scale $(SCALE) --experiment $(EXPERIMENT)

report: $(READY)  ## collect the ledger of claims
	@$(RUN) -m experiments report --scale $(SCALE)

docs: $(READY)  ## the documentation site into build/docs; runs the examples
	@$(RUN) -m sphinx -q -E -W --keep-going -c docs -d build/doctrees . build/docs
	@echo "build/docs/index.html"

list: $(READY)  ## name every claim
	@$(RUN) -m experiments list

test: $(READY)  ## the tests, all but the exhaustive ones
	@$(RUN) -m pytest -m "not exhaustive"

test-all: $(READY)  ## every test, on programs compiled as users' are; up to an hour
	@XLA_FLAGS= $(RUN) -m pytest

check: $(READY)  ## format, lint, types
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

format: $(READY)  ## format the code and mend what lint can
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

record: $(READY)  ## run the tests of tests/recorded.json whose code has changed; enter what passes
	@$(RUN) -m pytest -m "recorded and not exhaustive" --record

mutations: $(READY)  ## break code and methods on purpose; renew the lists of ledger rows that turn
	@$(RUN) -m experiments.power
	@PYTHONPATH=tests $(RUN) -m mutations

attack: $(READY)  ## kills, damage, two of everything, bad input; renew the table in docs/reliability.md
	@PYTHONPATH=tests $(RUN) -m attacks

wheels: $(READY)  ## the wheel on every supported Python that is installed; renew the table in docs/install.md
	@PYTHONPATH=tests $(RUN) -m wheels

bench: $(READY)  ## speed, as ratios in one run, into results/benchmarks.md
	@$(RUN) -m experiments.benchmarks

clean:  ## remove the environment, caches and raw results
	rm -rf $(VENV) .cache build docs/api docs/gallery *.egg-info results/raw results/smoke results/full
