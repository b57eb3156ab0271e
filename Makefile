# `make demo` and `make test` need python 3.11 or 3.12 and nothing else: they set up .venv by themselves, once.

SHELL := /bin/bash
PYTHON := .venv/bin/python
# Newer than pyproject.toml: .venv holds what pyproject.toml asks for.
STAMP := .venv/.complete
# Two processes, each with a Ray of its own where its files need one; a file's tests stay together and share what they set up.
PYTEST := $(PYTHON) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help venv demo test test-quick lint format
help:
	@echo "make demo        pre-train a small model on synthetic protein families, with pictures (minutes, no GPU)"
	@echo "make test        run every test that needs no GPU"
	@echo "make test-quick  run the tests that start no cluster"
	@echo "make lint        check style, import boundaries and types"

venv: $(STAMP)

demo: $(STAMP)
	$(PYTHON) jobs/pretrain_pmlm.py

test: $(STAMP)
	$(PYTEST) -m "not gpu"

test-quick: $(STAMP)
	$(PYTEST) -m "not gpu and not cluster and not slow"

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo
	.venv/bin/mypy

format: $(STAMP)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# A python is found by running it: the name alone may be a version manager's shim for a python that is not there.
$(STAMP): pyproject.toml
	@usable='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; \
	if ! $(PYTHON) -c "$$usable" 2>/dev/null || ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	    found=; bare=; \
	    for python in python3.11 python3.12 python3; do \
	        "$$python" -c "$$usable" 2>/dev/null || continue; \
	        if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; fi; \
	        bare=$${bare:-$$python}; \
	    done; \
	    if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	        echo "raypro: $$bare cannot make a virtual environment (no ensurepip); on Debian or Ubuntu: apt-get install $$bare-venv" >&2; exit 1; \
	    elif [ -z "$$found" ]; then \
	        echo "raypro: no working python 3.11 or 3.12 found; on Debian or Ubuntu: apt-get install python3 python3-venv" >&2; exit 1; \
	    fi; \
	    echo "raypro: setting up .venv with $$("$$found" --version)"; \
	    "$$found" -m venv --clear .venv; \
	fi
	@echo "raypro: installing what pyproject.toml asks for (minutes the first time)"
	@$(PYTHON) -m pip install -qq --editable '.[dev]'
	@touch $(STAMP)
