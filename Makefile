# `make` alone lists the targets. Every target makes the environment first, if it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DONE   := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check static fmt docs bench bench-faults bench-replay results-measures toy clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(DONE): pyproject.toml constraints.txt
	@echo "making the environment in $(VENV) (about 2 GB; the first time takes a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(DONE)

setup: $(DONE) ## make the environment

demo: $(DONE) ## train the shipped tiny student in five ways and compare them (minutes, CPU, offline)
	@$(BIN)/teachwise demo

test: static ## everything: the checks, the test suite, the examples in docstrings
	@$(BIN)/python -m pytest --doctest-modules tests src/teachwise

check: static ## ruff, types, import contract, docs tests
	@$(BIN)/python -m pytest -q --no-header tests/test_docs.py

static: $(DONE)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

fmt: $(DONE) ## format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

docs: $(DONE) ## write the parts of the docs that come from the code
	@$(BIN)/python docs/generate.py

bench: $(DONE) ## kill -9 at 20 points, resume, compare
	@$(BIN)/python bench/kills.py --json bench/results/kills.json

bench-faults: $(DONE) ## kill -9 the buying client at 200 points while its server fails; count the harm
	@$(BIN)/python bench/faults.py --json bench/results/faults.json

bench-replay: $(DONE) ## a recorded teacher: nothing lost under faults, and the overhead of ledger and client per request
	@$(BIN)/python bench/replay.py --json bench/results/replay.json

results-measures: $(DONE) build/toy/half/model.safetensors ## every measure on the toy, for docs/results.md (minutes; the first time ten more)
	@OMP_NUM_THREADS=1 nice $(BIN)/python bench/measures.py --proxy build/toy/half --json docs/results/measures.json
	@$(BIN)/python docs/generate.py

build/toy/half/model.safetensors: | $(DONE)
	@OMP_NUM_THREADS=1 $(BIN)/python -m teachwise.toy.pretrain --size half --out build/toy/half

toy: $(DONE) ## pre-train the shipped student again, and one of half and one of double its size (45 minutes, one core)
	@for size in student half double; do $(BIN)/python -m teachwise.toy.pretrain --size $$size --out build/toy/$$size; done

clean: ## remove what the targets made, not your runs
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
