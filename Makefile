# make setup | demo | test | lint | types | bench RUN="NAME ARGUMENTS" | compare | attack PART=1/4. VENV=DIR uses another environment than .venv.
VENV ?= .venv
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
HOST_PYTHON = $(shell for name in python3.11 python3.12 python3; do \
  $$name -c '$(SUPPORTED)' 2>/dev/null && echo $$name && break; done)
STAMP := $(VENV)/.dancezoo-$(firstword $(shell cat requirements.txt pyproject.toml | cksum))
TESTS ?= tests
# one file is one worker's, so that its fixtures are made once
PYTEST := -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

.PHONY: setup demo test lint types bench compare attack

setup: $(STAMP)

# Named after the requirements: other pins install again, the same ones never do.
$(STAMP):
	@test -x $(BIN)/python || { test -n "$(HOST_PYTHON)" && $(HOST_PYTHON) -m venv $(VENV); } || { \
	  echo "make: no Python 3.11 or 3.12 with venv found; install one, or name an environment by VENV=DIR" >&2; exit 2; }
	@echo "installing into $(VENV) (7 GB when new, some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@$(BIN)/dancezoo setup || echo "make setup goes on without the pose detector"
	@rm -f $(VENV)/.dancezoo-*; touch $@

demo: setup
	$(BIN)/python sample.py

test: setup
	$(BIN)/python $(PYTEST) $(TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/python tools/check_types.py

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(BIN)/python -m benchmarks $(RUN)

compare: setup
	$(BIN)/python evaluate.py

attack: setup
	$(BIN)/python tools/attack.py part=$(or $(PART),1/1)
