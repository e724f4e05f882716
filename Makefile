# make demo    convert a small checkpoint and look at the result
# make test    run the tests; PYTEST_ARGS="-k header" runs some, JOBS=4 in four processes, JOBS=0 in this one
# make docs    build the documentation as a site, into site/ (SITE=DIR)
# make check   everything else that must hold: style, types, import layers, catalog, distribution, documentation
#
# VENV=DIR says where the environment lies; it is made when absent. PyTorch serves the tests only. On Linux the
# default build of it brings CUDA along; TORCH="--index-url URL torch==2.13.0" takes another.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
DEMO ?= demo
SITE ?= site
JOBS ?= 3

BIN := $(VENV)/bin
USER_STAMP := $(VENV)/.transcode-installed
DEV_STAMP := $(VENV)/.transcode-dev-installed
DOCS_STAMP := $(VENV)/.transcode-docs-installed

.PHONY: demo test check style format types layers formats wheel docs install dev

demo: install
	$(BIN)/transcode run fixtures/wan_tiny $(DEMO)/wan_tiny_int8.safetensors --scheme int8 --force
	$(BIN)/transcode inspect $(DEMO)/wan_tiny_int8.safetensors

# Tests start hundreds of commands: what Python compiles for one must serve the others, whatever is set outside.
test: export PYTHONDONTWRITEBYTECODE =
test: dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

check: style format types layers formats wheel docs

style: dev
	$(BIN)/ruff check

format: dev
	$(BIN)/ruff format --check

types: dev
	$(BIN)/mypy

layers: dev
	$(BIN)/python tools/check_layers.py

formats: dev
	$(BIN)/python tools/check_formats.py

wheel: dev
	$(BIN)/python tools/check_wheel.py

# --quiet would silence the warnings that --strict counts.
docs: $(DOCS_STAMP)
	$(BIN)/python tools/make_reference.py --check
	$(BIN)/python -m mkdocs build --strict --site-dir $(abspath $(SITE))

install: $(USER_STAMP)

dev: $(DEV_STAMP)

$(USER_STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# PyTorch goes first and alone, so that nothing else chooses a build of it.
$(DEV_STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(USER_STAMP) $@

$(DOCS_STAMP): $(USER_STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
