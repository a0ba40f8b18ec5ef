# make run        execute all notebooks in order, in fast mode on synthetic pictures
# make test       linter, README against results/, unit tests, notebooks under nbval: all of them, then which failed
# make test-all   the same with the slow tests; make lint, format, page, unit, notebooks: one part
# make reproduce  train every recipe at full length, then report: make reproduce DATA=cifar10
# PYTHON names the interpreter that makes .venv: Python 3.11 or newer.
#
# Without make, as on Windows, in a virtual environment with the requirements and the CHECKERS below:
#   python -m pytest -m "not slow"
#   python -m pytest --nbval-lax --nbval-current-env notebooks/     with COURSE_FAST=1 and COURSE_DATA=synthetic set

PYTHON ?= python3
DATA ?= cifar10
RUNS ?= runs
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
FAST := COURSE_FAST=1 COURSE_DATA=synthetic
# A formatter of another version may want another format, so this one is fixed.
CHECKERS := 'pytest>=8' 'pytest-xdist>=3.6' 'hypothesis>=6' ruff==0.17.5 tensorboard

PARTS := lint format page unit notebooks

.PHONY: run test test-all $(PARTS) reproduce
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

# Every part runs, even when an earlier one failed.
test test-all: .venv/installed
	@failed=; for part in $(PARTS); do \
	  echo "== $$part"; $(MAKE) --no-print-directory $$part TESTS='$(TESTS)' || failed="$$failed $$part"; \
	done; \
	if [ "$$failed" ]; then echo "Failed:$$failed"; exit 1; fi; echo "Passed: $(PARTS)"

test: TESTS = not slow

lint: .venv/installed
	.venv/bin/ruff check .

format: .venv/installed
	.venv/bin/ruff format --check .

page: .venv/installed
	.venv/bin/python -m helpers report --check

unit: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -m '$(TESTS)' -n auto --maxprocesses=4 --dist loadfile --durations=5

notebooks: .venv/installed
	@rm -rf runs/nbval
	$(FAST) COURSE_RUNS=runs/nbval .venv/bin/python -m pytest -q --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=300 notebooks/

reproduce: .venv/installed
	.venv/bin/python -m helpers reproduce --data '$(DATA)' --runs '$(RUNS)'
