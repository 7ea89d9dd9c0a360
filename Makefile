# `make demo` and `make test` do all the set-up on a fresh machine that has Python and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo test test-slow lint types bench clean

help:
	@echo "make demo       run the main job on the built-in data; look at demo-report/index.html"
	@echo "make test       lint, types and the default tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-min   the tests with the oldest transformers, peft, datasets and huggingface_hub that we promise"
	@echo "make test-open-clip  the tests of the open_clip backbones (a virtual environment of several GB)"
	@echo "make bench      the benchmarks that say how fast retrieval metrics and the decomposition are"

demo: $(INSTALLED)
	$(BIN)/clipalign demo --out demo-report

test: $(INSTALLED) lint types
	$(PYTEST) -n 2 --dist loadfile

test-slow: $(INSTALLED)
	$(PYTEST) -m slow -n 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/retrieval.py
	$(BIN)/python benchmarks/decompose.py

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo-report outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis

include Makefile.lanes
