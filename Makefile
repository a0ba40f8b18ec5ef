# make run        execute all notebooks in order, in fast mode on synthetic pictures
# make test       linter, unit tests, notebooks under nbval
# make reproduce  train every recipe at full length: make reproduce DATA=cifar10
# PYTHON names the interpreter that makes .venv; Python 3.11 or newer is needed.

PYTHON ?= python3
DATA ?= cifar10
RUNS ?= runs
FAST_RUNS := $(CURDIR)/runs/fast
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
FAST := COURSE_FAST=1 COURSE_DATA=synthetic

.PHONY: run test reproduce
.DELETE_ON_ERROR:

# Made once; made again only when requirements.txt changes.
.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

run: .venv/installed
	@mkdir -p $(FAST_RUNS)/notebooks
	@for notebook in $(NOTEBOOKS); do \
	  echo "Executing $$notebook (fast mode, synthetic pictures) ..."; \
	  $(FAST) COURSE_RUNS=$(FAST_RUNS) .venv/bin/jupyter nbconvert --log-level=ERROR --to notebook --execute \
	    --ExecutePreprocessor.timeout=600 --output-dir $(FAST_RUNS)/notebooks $$notebook || exit 1; \
	done
	@echo "Executed notebooks: runs/fast/notebooks/"
	@echo "Run folders, with logs and plots: runs/fast/*/"
	@echo "All of it is synthetic and shortened: it shows that everything works, not what the networks reach."

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python -m pytest -q --durations=5
	@rm -rf runs/nbval
	$(FAST) COURSE_RUNS=$(CURDIR)/runs/nbval .venv/bin/python -m pytest -q --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=300 notebooks/

reproduce: .venv/installed
	@for recipe in $$(.venv/bin/python -c 'from helpers.recipes import RECIPES; print(*RECIPES)'); do \
	  .venv/bin/python -m helpers train $$recipe --data $(DATA) --runs $(RUNS) || exit 1; \
	done
