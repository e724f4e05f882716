# make demo   convert a small checkpoint and look at the result
# make test   run the tests
# make check  formatting, types, import layers, catalog and packaging
#
# VENV=DIR says where the environment lies (made when absent). PyTorch serves tests only; elsewhere than on a
# machine without GPU its default build is large: TORCH="--index-url URL torch==2.13.0" picks another.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
DEMO ?= demo

BIN := $(VENV)/bin
USER_STAMP := $(VENV)/.transcode-installed
DEV_STAMP := $(VENV)/.transcode-dev-installed

.PHONY: demo test check install dev

demo: install
	$(BIN)/transcode run fixtures/wan_tiny $(DEMO)/wan_tiny_int8.safetensors --scheme int8 --force
	$(BIN)/transcode inspect $(DEMO)/wan_tiny_int8.safetensors

test: dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tools/check_layers.py
	$(BIN)/python tools/check_formats.py
	$(BIN)/python tools/check_wheel.py

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
