# make run        execute all notebooks in order, in fast mode on synthetic pictures; empties runs/fast first
# make test       linter, pages and figures against results/, unit tests, notebooks under nbval; then which failed
# make test-all   the same with the slow tests; make lint, format, page, unit, notebooks: one part
# make reproduce  train every recipe at full length, then report: make reproduce DATA=cifar10
# make site       pages and notebooks as a site, with search: needs Node.js, no Python
# PYTHON names the interpreter that makes .venv: Python 3.11 or newer.
#
# Without make, as on Windows, in a virtual environment:
#   python -m pip install -e ".[test]"
#   python -m pytest -m "not slow"
# and with COURSE_FAST=1 and COURSE_DATA=synthetic set (PowerShell: $env:COURSE_FAST = 1; $env:COURSE_DATA = "synthetic")
#   python -m pytest --nbval-lax --nbval-current-env notebooks/
#   jupyter nbconvert --to notebook --execute --output-dir runs/fast/notebooks notebooks/01_lr_range_test.ipynb     and the others

PYTHON ?= python3
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
FAST := COURSE_FAST=1 COURSE_DATA=synthetic
UV := $(shell command -v uv)
INSTALL := $(if $(UV),uv pip install --quiet --python .venv/bin/python,\
  .venv/bin/python -m pip install --quiet --disable-pip-version-check)
AGAIN := $(if $(UV),--reinstall,--force-reinstall)
# PyTorch without CUDA, which is 5 GB less; its versions end in +cpu and are preferred to those of the package index.
CPU_INDEX := https://download.pytorch.org/whl/cpu
CPU := $(if $(UV),--torch-backend=cpu,--extra-index-url $(CPU_INDEX))

.PHONY: run
.DELETE_ON_ERROR:

# Made once, and again when the requirements change. On Linux without an NVIDIA GPU PyTorch comes without CUDA, if its
# own index answers and torchvision fits; else everything comes from the package index.
.venv/installed: requirements.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed and $(PYTHON) is not: try make PYTHON=python3.12"; exit 2; }
	@$(if $(UV),uv venv --quiet --seed --allow-existing --python $(PYTHON),$(PYTHON) -m venv) .venv || \
	  { echo "On Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@cpu=; \
	if [ "$$(uname)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1 && $(PYTHON) -c \
	  'import urllib.request as u; u.urlopen("$(CPU_INDEX)/torchvision/", timeout=10)' 2>/dev/null; \
	then cpu="$(CPU)"; fi; \
	echo "Installing the requirements into .venv (2 to 3 minutes and $${cpu:+2 to }7 GB, once) ..."; \
	$(INSTALL) $$cpu -e '.[test]' && .venv/bin/python -c 'import torchvision' || \
	  { [ "$$cpu" ] && echo "Without CUDA it failed, so with it ..." && $(INSTALL) $(AGAIN) -e '.[test]'; }
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

DATA ?= cifar10
RUNS ?= runs
PARTS := lint format page unit notebooks

.PHONY: test test-all $(PARTS) nbval-first nbval-longest nbval-others reproduce site

# Every part runs, even when an earlier one failed.
test test-all: .venv/installed
	@failed=; for part in $(PARTS); do \
	  echo "== $$part"; $(MAKE) --no-print-directory $$part TESTS='$(TESTS)' || failed="$$failed $$part"; \
	done; \
	if [ "$$failed" ]; then echo "Failed:$$failed"; exit 1; fi; echo "Passed: $(PARTS)"

TESTS := not slow
test-all: TESTS :=

lint: .venv/installed
	.venv/bin/ruff check .

format: .venv/installed
	.venv/bin/ruff format --check .

page: .venv/installed
	.venv/bin/python -m helpers report --check

unit: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -m '$(TESTS)' -n auto --maxprocesses=4 --dist loadfile \
	  --no-loadscope-reorder --durations=5

# The longest notebook runs beside the first ones; the others, which show the runs of these, come after them.
notebooks: .venv/installed
	@rm -rf runs/nbval
	@$(MAKE) --no-print-directory -j2 nbval-others

nbval-first nbval-longest: THREADS := OMP_NUM_THREADS=1
nbval-first: NBVAL := $(wildcard notebooks/0[12]_*.ipynb)
nbval-longest: NBVAL := $(wildcard notebooks/03_*.ipynb)
nbval-others: NBVAL = $(filter-out $(wildcard notebooks/0[123]_*.ipynb),$(NOTEBOOKS))
nbval-others: nbval-first nbval-longest
nbval-first nbval-longest nbval-others:
	$(if $(NBVAL),$(THREADS) $(FAST) COURSE_RUNS=runs/nbval .venv/bin/python -m pytest -q --nbval-lax \
	  --nbval-current-env --nbval-cell-timeout=300 $(NBVAL))

reproduce: .venv/installed
	.venv/bin/python -m helpers reproduce --data '$(DATA)' --runs '$(RUNS)'

# The pages and the executed notebooks as a site, by MyST (https://mystmd.org), into _build/html.
MYST := mystmd@1.8.3
site:
	@command -v npx >/dev/null || { echo "Node.js 20 or newer is needed for the site: https://nodejs.org"; exit 2; }
	npx --yes $(MYST) build --html
	@echo "The site: _build/html/index.html (to look at it: python3 -m http.server -d _build/html)"
