# make run        execute all notebooks in order, in fast mode on synthetic pictures
# make test       linter, README against results/, unit tests, notebooks under nbval
# make reproduce  train every recipe at full length, then report: make reproduce DATA=cifar10
# PYTHON names the interpreter that makes .venv: Python 3.11 or newer.

PYTHON ?= python3
DATA ?= cifar10
RUNS ?= runs
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
FAST := COURSE_FAST=1 COURSE_DATA=synthetic
# A formatter of another version may want another format, so this one is fixed.
CHECKERS := 'pytest>=8' 'pytest-xdist>=3.6' 'hypothesis>=6' ruff==0.17.5 tensorboard

.PHONY: run test reproduce
.DELETE_ON_ERROR:

# Made once, and again when requirements.txt or the list above changes.
.venv/installed: requirements.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed and $(PYTHON) is not: try make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "On Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@echo "Installing the requirements into .venv (2 to 3 minutes and 7 GB, once) ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt $(CHECKERS)
	@touch $@

run: .venv/installed
	@rm -rf runs/fast && mkdir -p runs/fast/notebooks
	@for notebook in $(NOTEBOOKS); do \
	  echo "Executing $$notebook in fast mode on synthetic pictures ..."; \
	  $(FAST) COURSE_RUNS=runs/fast .venv/bin/jupyter nbconvert --log-level=ERROR --to notebook --execute \
	    --ExecutePreprocessor.timeout=600 --ExecutePreprocessor.extra_arguments=--log-level=ERROR \
	    --output-dir runs/fast/notebooks $$notebook || exit 1; \
	done
	@echo "Executed notebooks: runs/fast/notebooks/"
	@echo "Run folders with logs and plots: $$(ls -d runs/fast/*-seed*/ | tr '\n' ' ')"
	@echo "All of it is synthetic and shortened: it shows that everything works, not what the networks reach."

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python -m helpers report --check
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n auto --maxprocesses=4 --dist loadfile --durations=5
	@rm -rf runs/nbval
	$(FAST) COURSE_RUNS=runs/nbval .venv/bin/python -m pytest -q --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=300 notebooks/

reproduce: .venv/installed
	.venv/bin/python -m helpers reproduce --data '$(DATA)' --runs '$(RUNS)'
