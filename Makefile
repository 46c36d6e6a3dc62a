# Every target first sets up the environment. If it is up to date, this takes a moment.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python

DATASET ?= glossyrooms
PROFILE ?= demo
NOTEBOOKS ?= $(sort $(wildcard notebooks/[0-9]*.py))
# Options that are passed on if set:
ROOT ?=
CAPTURE ?=
RUN ?=
SEED ?=
ARCHS ?= every
ARGS ?=
# Number of processes of the tests, one thread each; 0 runs the tests in one process
WORKERS ?= 2

.PHONY: help setup test demo room .capture lab papermill notebooks figures rooms docs linkcheck lint format constraints clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Options of demo and figures: DATASET=$(DATASET) PROFILE=$(PROFILE) ROOT=folder RUN=name SEED=number"
	@echo "  Options of notebooks: PROFILE=smoke RUN=name NOTEBOOKS='notebooks/03_fuse.py ...'"
	@echo "  Options of papermill: ARCHS=every PROFILE=ready RUN=name SEED=number ARGS='-p threshold_m 0.2'"
	@echo "  ARGS='...' is passed on by test (to pytest), demo, room, figures (to python -m d3d) and rooms"

setup: ## create or update .venv from pyproject.toml and constraints.txt (minutes the first time)
	@scripts/setup.sh

test: setup ## run the tests; fails if a test changes a file in this folder
	$(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

demo: setup ## run every stage of the paper: pretrain, project, fuse, distill, evaluate
	$(PY) -m d3d all --profile "$(PROFILE)" --dataset "$(DATASET)" \
	    $(if $(ROOT),--root "$(ROOT)") $(if $(RUN),--run "$(RUN)") $(if $(SEED),--seed "$(SEED)") $(ARGS)

room: .capture setup ## depth, meshes and a page of your own room: CAPTURE=my_room/ or CAPTURE=walk.mp4 (docs/room.md)
	$(PY) -m d3d room "$(CAPTURE)" $(if $(RUN),--run "$(RUN)") $(if $(SEED),--seed "$(SEED)") $(ARGS)

# Before the setup, which may take minutes
.capture:
	@[ -n "$(CAPTURE)" ] || { echo "make room needs CAPTURE=PATH: a video, or a folder (docs/room.md)"; exit 2; }

lab: setup ## open JupyterLab on copies of the notebooks, in lab/
	$(PY) scripts/lab.py -- $(ARGS)

papermill: setup ## run 01 to 05 for each network and the others once; copies in runs/<run>/notebooks/
	$(PY) scripts/papermill_all.py --archs "$(ARCHS)" \
	    $(if $(filter file,$(origin PROFILE)),,--profile "$(PROFILE)") $(if $(RUN),-p run "$(RUN)") \
	    $(if $(SEED),-p seed "$(SEED)") $(ARGS)

notebooks: setup ## write each notebook's .ipynb from its .py and run it (profile ready by default)
	$(PY) scripts/notebooks.py $(NOTEBOOKS) $(if $(filter file,$(origin PROFILE)),,--profile "$(PROFILE)") \
	    $(if $(RUN),--run "$(RUN)")

figures: setup ## make the figures of paper_figures/ and their CSV files
	$(PY) -m d3d figures --profile "$(PROFILE)" --dataset "$(DATASET)" $(if $(ROOT),--root "$(ROOT)") \
	    $(if $(RUN),--run "$(RUN)") $(if $(SEED),--seed "$(SEED)") $(ARGS)

rooms: setup ## render data/glossyrooms (ARGS="--out FOLDER --train 200 ..." renders another set)
	$(PY) -m glossyrooms.make --out data/glossyrooms $(ARGS)

docs: setup ## build the documentation site in build/site; any warning is an error
	$(PY) -m sphinx -q --fresh-env --fail-on-warning --keep-going --nitpicky -c docs -d build/doctrees . build/site
	@echo "build/site/index.html"

linkcheck: setup ## check the links of the site to other sites (needs a network)
	$(PY) -m sphinx -q -b linkcheck -c docs -d build/doctrees . build/linkcheck

lint: setup ## check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup ## correct style and formatting
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

constraints: setup ## write constraints.txt from the versions in .venv (see CONTRIBUTING.md)
	$(PY) scripts/constraints.py

clean: ## remove caches and build files; keeps .venv and runs/
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . \( -name .venv -o -name runs -o -name .git \) -prune -o \
	    \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
