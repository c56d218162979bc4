.DEFAULT_GOAL := help
.PHONY: help demo test check fast-test format clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

demo: $(VENV)/demo ## Run the whole nightly job on a generated shop and search the release
	$(BIN)/indexer demo --folder demo-shop

test: check ## Run every check and every test
	$(BIN)/python -m pytest

check: $(VENV)/test ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast-test: check ## Run the tests that need no Java, no training and no minutes
	$(BIN)/python -m pytest tests/fast

format: $(VENV)/test ## Put the code into its one form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what make has built
	rm -rf $(VENV) demo-shop build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one by: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(BIN)/python setup.cfg constraints.txt
	$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/test: $(BIN)/python setup.cfg constraints.txt
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/demo
