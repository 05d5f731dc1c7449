# make demo | make test [EXTRAS=peers] | make bench | make lint
#
# Everything goes into .venv; python3 (3.11 or newer) and a C compiler are all that must be there.

PYTHON ?= python3
EXTRAS ?=
BIN := .venv/bin
SOURCES := setup.py pyproject.toml README.md $(shell find optkern -name '*.py' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.tp' -o -name '*.h')
comma := ,
# A CPU build: without the pin pip would fetch one with CUDA.
TORCH := $(if $(findstring peers,$(EXTRAS))$(findstring torch,$(EXTRAS)),torch==2.13.0)

.PHONY: demo test bench lint clean

demo: .venv/installed-demo
	$(BIN)/optkern demo $(ARGS)

test: .venv/installed-demo,test$(if $(EXTRAS),$(comma)$(EXTRAS))
	$(BIN)/pytest -n auto $(ARGS)

bench: .venv/installed-demo,test,bench
	$(BIN)/optkern bench $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(BIN):$$PATH" cython-lint optkern
	$(BIN)/mypy --strict tests/typing_check.py

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "optkern needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/installed-%: .venv/bin/python $(SOURCES)
	@echo 'building optkern into .venv: two to four minutes'
	@$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH) '.[$*]'
	@touch '$@'

clean:
	rm -rf .venv build optkern.egg-info
	find optkern -name '*.so' -delete
