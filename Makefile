# Everything a developer does, one word each; `make` lists it. Everything needed is installed into .venv.
PYTHON     ?= $(shell command -v python3.11 || command -v python3)
RECORDINGS ?= ../shared/data/icu/cinc2009
UV_VERSION := 0.13.9
BIN        := .venv/bin
STAMP      := .venv/.installed
UV         := .venv/bin/uv

# pyproject.toml says what is needed, requirements.lock which file of it, by hash.
INSTALL := $(UV) pip install --python $(BIN)/python -r pyproject.toml --all-extras -c requirements.lock
ifdef TORCH_BACKEND
INSTALL += --torch-backend $(TORCH_BACKEND) --no-verify-hashes
else
INSTALL += --require-hashes
endif

export RECORDINGS

.PHONY: help install demo test lint typecheck check bench fault train screenshot lock

help:  ## list the targets
	@awk -F ":.*## " "/^[a-z]+:.*## / {printf \"  make %-12s%s\\n\", \$$1, \$$2}" $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv with vitalcast in it; does nothing if nothing changed

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): $(UV) pyproject.toml requirements.lock
	$(INSTALL)
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: install  ## simulated patients, a broker and a worker on this machine, live in terminal and browser
	$(BIN)/vitalcast demo $(ARGS)

test: install  ## all tests, on a real Kafka if Docker, or Java 17 and Maven, is installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: install  ## formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

typecheck: install  ## mypy, strict
	$(BIN)/mypy

check: lint typecheck test  ## what CI runs

bench: install  ## benchmarks: tests/bench/bench_*.py
	$(BIN)/python -m pytest tests/bench -o python_files='bench_*.py' -o python_functions='bench_*' -s --timeout=1800 $(ARGS)

fault: install  ## only the tests that kill, stop and cut off workers and brokers
	$(BIN)/python -m pytest tests/fault $(ARGS)

train: install  ## train the default model on RECORDINGS and write model/artifacts
	$(BIN)/vitalcast train $(RECORDINGS) --out model/artifacts $(ARGS)

screenshot: install  ## the live page as the README shows it: docs/ward.png (needs Debian's chromium)
	$(BIN)/python -m tests.browser.screenshot docs/ward.png

lock: $(UV)  ## choose versions anew within pyproject.toml and write requirements.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command 'make lock' --all-extras pyproject.toml -o requirements.lock $(ARGS)
