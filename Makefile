# `make demo` and `make test` do all the set-up on a fresh machine that has Python and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
FUZZ_SECONDS ?= 300
MUTANTS ?= 400

.PHONY: help demo test test-slow fuzz mutants lint types bench clean

help:
	@echo "make demo       run the main job on the built-in data; look at demo-report/index.html"
	@echo "make test       lint, types and the default tests"
	@echo "make test-slow  what takes long: several processes, and the drills that kill runs and resume them"
	@echo "make fuzz       damaged inputs for every reader, for five minutes (FUZZ_SECONDS=300)"
	@echo "make mutants    one-line mistakes that the tests should notice (MUTANTS=400); resumes from mutants.json"
	@echo "make test-min   the tests with the oldest transformers, peft, datasets and huggingface_hub that we promise"
	@echo "make test-open-clip  the tests of the open_clip backbones (a virtual environment of several GB)"
	@echo "make test-databases  the recipes for vector databases, on a real PostgreSQL with pgvector and on LanceDB"
	@echo "make test-s3    stores in a bucket of a real S3 server on this machine (a virtual environment of its own)"
	@echo "make test-ray   extraction on Ray: several nodes on this machine, killed and resumed (a virtual environment)"
	@echo "make test-app   the app in a real browser (Chromium must be there; a virtual environment of its own)"
	@echo "make bench      the benchmarks that say how fast retrieval metrics and the decomposition are"

demo: $(INSTALLED)
	$(BIN)/clipalign demo --out demo-report

test: $(INSTALLED) lint types
	$(PYTEST) --must-pass-some -n 2 --dist loadfile

test-slow: $(INSTALLED)
	$(PYTEST) --must-pass-some -m slow -n 2 --dist loadfile

# FUZZ_SECONDS bounds the whole lane; a run that is cut short by it says how many inputs it tried
fuzz: $(INSTALLED)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(PYTEST) --must-pass-some -m fuzz -s tests/fuzz

mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutants --count $(MUTANTS) --out mutants.json

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
	rm -rf $(VENV) demo-report outputs mutants.json mutants.lines .pytest_cache .mypy_cache .ruff_cache .hypothesis

include Makefile.lanes
