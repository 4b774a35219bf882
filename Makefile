# The whole workflow: setup, serve, test, check, bench. Everything lives in .venv.

PYTHON ?= python3
VENV   ?= .venv
# The CPU build, where the package index has one; constraints.txt says which release. Only tests
# and benchmarks need torch.
TORCH  ?= torch
PORT   ?= 5000
MODELS ?= tiny

BIN     := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
TESTING := $(VENV)/.testing
PIP     := $(BIN)/python -m pip --disable-pip-version-check
# What is tested is what constraints.txt says.
INSTALL := $(PIP) install --quiet --constraint constraints.txt
SOURCES := open_llm_server client tests scripts benchmarks models containers examples

.PHONY: help setup serve test check lint format bench soak fuzz docs proto constraints dist containers images clean
.DEFAULT_GOAL := help

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1	/' | expand -t 13

setup: $(RUNTIME) ## make .venv with the server, and build llama.cpp for this machine's CPU

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: Python 3.10 to 3.13 is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --upgrade 'pip>=25.1'

$(RUNTIME): pyproject.toml client/pyproject.toml constraints.txt scripts/setup_llama_cpp.py | $(VENV)/bin/python
	@echo "installing the server and what it needs"
	@$(INSTALL) --editable ./client --editable '.[grpc]'
	@$(BIN)/python scripts/setup_llama_cpp.py
	@touch $@

$(TESTING): $(RUNTIME)
	@echo "installing what the tests need"
	@$(INSTALL) '$(TORCH)'
	@$(INSTALL) --group test --group lint
	@touch $@

serve: $(RUNTIME) ## set up, then serve: make serve MODELS=tiny PORT=5000
	@exec $(BIN)/open-llm-server start $(MODELS) --port $(PORT)

test: lint ## set up, then every check and every test
	@$(BIN)/python -m pytest

check: lint ## set up, then format, lint, types, architecture and unit tests: under a minute
	@$(BIN)/python -m pytest -q -n 2 tests/unit tests/test_architecture.py

lint: $(TESTING)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy

format: $(TESTING) ## put every file into shape
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

bench: $(TESTING) ## measure against the bare engine and against peers, as ratios
	@$(BIN)/python -m benchmarks

soak: $(TESTING) ## mixed load on the real server for SECONDS=600, watching memory and slots
	@$(BIN)/python -m benchmarks.soak --seconds $(or $(SECONDS),600)

fuzz: $(TESTING) ## look for inputs that break the readers of weights, for SECONDS=60 each
	@for target in gguf safetensors settings; do \
	  $(BIN)/python -m tests.fuzz.$$target $(or $(SECONDS),60) || exit 1; done

docs: $(TESTING) ## write the pages of docs/ that the program says of itself
	@$(BIN)/python scripts/make_docs.py

proto: $(TESTING) ## make the Python form of the proto, for server and client
	@$(BIN)/python scripts/make_proto.py

constraints: | $(VENV)/bin/python ## write constraints.txt: UPGRADE=--upgrade takes the newest of everything
	@$(PIP) install --quiet uv
	@$(BIN)/python scripts/make_constraints.py $(UPGRADE)

dist: $(TESTING) ## build both distributions into dist/: sdist, and from it the wheel
	@$(BIN)/python -m build --no-isolation --outdir dist .
	@$(BIN)/python -m build --no-isolation --outdir dist client

containers: $(RUNTIME) ## write the Containerfiles from their one source
	@$(BIN)/python scripts/make_containerfiles.py

images: ## build the images with podman or docker: make images ENGINES=all TARGET=cpu
	@$(PYTHON) scripts/build_images.py --target $(or $(TARGET),cpu) --engines $(or $(ENGINES),all) \
	  $(if $(FAMILIES),--families $(FAMILIES)) $(if $(BASE),--build-arg BASE=$(BASE))

clean: ## remove what these commands made
	rm -rf $(VENV) .bench dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
