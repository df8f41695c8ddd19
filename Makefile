# Needs make and Python 3.11 or newer, nothing else: everything is installed into .venv, at the
# versions and hashes of the lock files. A second run installs nothing.

.DEFAULT_GOAL := help
.PHONY: help install dev demo kafka test check lint format bench lock clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The first of these that will do makes the virtual environment; PYTHON=... names another.
PYTHON ?=
PYTHONS := $(PYTHON) python3.11 python3.12 python3.13 python3
# Passed on, as in: make demo ARGS="--events 200000"
ARGS ?=
# Benchmark to run, as in: make bench NAME=recommend
NAME ?= pipeline

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Install what the engine needs

dev: $(VENV)/.installed-dev ## Install what its developers need as well

demo: install ## Show the engine at work on this machine (ARGS: see crm-streams demo --help)
	@$(BIN)/crm-streams demo $(ARGS)

kafka: install ## Run an Apache Kafka broker on this machine (ARGS: --port P)
	@$(BIN)/python -m benchmarks.kafka $(ARGS)

test: dev ## Run the tests (ARGS: see pytest --help)
	$(BIN)/pytest $(ARGS)

lint: dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint ## Check everything, as continuous integration does
	$(BIN)/pytest

format: dev ## Bring the sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: dev ## Run a benchmark (NAME, ARGS: see python -m benchmarks --help)
	@$(BIN)/python -m benchmarks $(NAME) $(ARGS)

lock: ## Write the lock files anew from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/" >&2; exit 1; }
	uv pip compile --quiet --upgrade --universal --generate-hashes --no-header \
	    pyproject.toml -o requirements.lock
	uv pip compile --quiet --upgrade --universal --generate-hashes --no-header \
	    --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## Remove the virtual environment, caches and build results
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@old=; bare=; \
	for python in $(PYTHONS); do \
	    command -v "$$python" >/dev/null 2>&1 || continue; \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { old="$$old $$version"; continue; }; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || { bare="$$python"; continue; }; \
	    echo "Making $(VENV) with Python $$version"; \
	    exec "$$python" -m venv $(VENV); \
	done; \
	if [ -n "$$bare" ]; then \
	    echo "$$bare cannot make virtual environments; install its venv package (on Debian and Ubuntu: apt install python3-venv)" >&2; \
	else \
	    echo "Python 3.11 or newer is needed; found:$${old:- none}. Install one, or name it: make PYTHON=/path/to/python3" >&2; \
	fi; \
	exit 1

$(VENV)/.installed: $(BIN)/python requirements.lock pyproject.toml
	@echo "Installing into $(VENV); the first time takes a minute or two"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@echo "Installing the developers' tools into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
