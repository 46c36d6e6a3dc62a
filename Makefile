# Every target sets up what it needs; a finished setup costs a moment.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python

DATASET ?= glossyrooms
PROFILE ?= demo
NOTEBOOKS ?= $(sort $(wildcard notebooks/[0-9]*.py))
# Set to hand them on:
ROOT ?=
RUN ?=
SEED ?=
ARGS ?=
# pytest's processes, one thread each; 0 runs the tests in one process
WORKERS ?= 2

.PHONY: help setup test demo notebooks figures rooms lint format constraints clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make demo takes DATASET=$(DATASET) PROFILE=$(PROFILE) and, when given, ROOT=folder RUN=name SEED=number"
	@echo "  make test, demo and rooms hand ARGS='...' on to pytest, python -m d3d all and glossyrooms.make"

setup: ## create .venv from pyproject.toml and constraints.txt (minutes the first time, then a moment)
	@scripts/setup.sh

test: setup ## run the tests; fails if a test changes a file of this folder
	$(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

demo: setup ## run every stage of the paper: pretrain, project, fuse, distill, evaluate
	$(PY) -m d3d all --profile "$(PROFILE)" --dataset "$(DATASET)" \
	    $(if $(ROOT),--root "$(ROOT)") $(if $(RUN),--run "$(RUN)") $(if $(SEED),--seed "$(SEED)") $(ARGS)

notebooks: setup ## write each notebook's .ipynb from its .py and run it (PROFILE=smoke unless given)
	$(PY) scripts/notebooks.py $(NOTEBOOKS) --profile $(if $(filter file,$(origin PROFILE)),smoke,"$(PROFILE)") \
	    $(if $(RUN),--run "$(RUN)")

figures: setup ## make paper_figures/ again, with the CSV behind each
	$(PY) -m d3d figures --profile "$(PROFILE)" --dataset "$(DATASET)" $(if $(ROOT),--root "$(ROOT)") \
	    $(if $(RUN),--run "$(RUN)") $(if $(SEED),--seed "$(SEED)") $(ARGS)

rooms: setup ## render data/glossyrooms again (ARGS="--out FOLDER --train 200 ..." for another set)
	$(PY) -m glossyrooms.make --out data/glossyrooms $(ARGS)

lint: setup ## check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup ## mend style and formatting
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

constraints: setup ## write constraints.txt from the versions in .venv (CONTRIBUTING.md says when)
	$(PY) scripts/constraints.py

clean: ## remove caches and build leftovers; keeps .venv and runs/
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . \( -name .venv -o -name runs -o -name .git \) -prune -o \
	    \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
