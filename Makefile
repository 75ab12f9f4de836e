# prefloop: `make help` lists everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.dev

.DEFAULT_GOAL := help
.PHONY: help run test soak bench bench-scale bench-training bench-annotate screenshots lint format types contract check wheel docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "prefloop needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.run

run: $(VENV)/.run ## install, then run the main job: align the embedded NBA text-to-SQL policy
	$(BIN)/prefloop run nba-sql --resume

test: $(STAMP) ## run the whole test suite (at most 10 minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" --numprocesses 2 --dist loadfile --no-loadscope-reorder

soak: $(STAMP) ## run the long variants: 100 kills, 10,000 mutated queries
	$(BIN)/python -m pytest -m soak

bench: $(STAMP) ## run the benchmarks; each prints a ratio measured in one run
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/judging.py
	$(BIN)/python benchmarks/importing.py

bench-scale: $(STAMP) ## every stage over 10^4 to 10^6 completions: time, memory, and the curve
	$(BIN)/python benchmarks/scale.py --figure docs/figures/scale.svg

bench-training: $(STAMP) ## the training engine beside tuned TRL
	$(BIN)/python benchmarks/training.py

bench-annotate: $(STAMP) ## the annotation server under load, and with 100,000 items
	$(BIN)/python benchmarks/annotation.py

screenshots: $(STAMP) ## pictures of every screen of the annotation app, into docs/annotation/
	PREFLOOP_SCREENSHOTS=docs/annotation $(BIN)/python -m pytest tests/test_annotation_browser.py -k every

lint: $(STAMP) ## ruff, without changing files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff format and mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## strict types of maths, config, records, store
	$(BIN)/mypy

contract: $(STAMP) ## imports go downwards only
	$(BIN)/lint-imports

check: lint types contract ## everything but the tests

docs: $(STAMP) ## write docs/cli.md from the commands themselves
	$(BIN)/python docs/make_cli_reference.py

wheel: $(STAMP) ## build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist .

clean: ## remove the environment and build output (runs/ stays)
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
