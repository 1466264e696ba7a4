# make demo | test | setup | bench | lint. VENV=DIR uses an environment that is there already.
VENV ?= .venv
BIN := $(VENV)/bin
# what the pinned packages run on
GOOD := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
HOST_PYTHON = $(shell for name in python3.11 python3.12 python3; do \
  $$name -c '$(GOOD)' 2>/dev/null && echo $$name && break; done)
STAMP := $(VENV)/.dancezoo-$(firstword $(shell cksum requirements.txt))
TESTS ?= tests

.PHONY: setup demo test bench lint

setup: $(STAMP)

# Named after the requirements: changed pins make it run again, an environment that satisfies them installs nothing.
$(STAMP):
	@test -x $(BIN)/python || { test -n "$(HOST_PYTHON)" && $(HOST_PYTHON) -m venv $(VENV); } || { \
	  echo "make: no Python 3.11 or 3.12 with venv found; install one, or name an environment by VENV=DIR" >&2; exit 2; }
	@$(BIN)/python tools/satisfied.py requirements.txt || { echo "installing into $(VENV) (7 GB, some minutes)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt; }
	@rm -f $(VENV)/.dancezoo-*; touch $@ 2>/dev/null || true

demo: setup
	$(BIN)/python sample.py

test: setup
	$(BIN)/python -m pytest $(TESTS)

bench: setup
	$(BIN)/python evaluate.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
