# `make help` lists what there is. Everything runs in .venv, which `make setup` makes from constraints.txt.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first of these that is Python 3.11 or newer.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INTEROP_READY := $(VENV)/.interop-ready
# OpenAI's Agents SDK wants an older websockets than all the rest is tried with, so adapters are tried beside it.
ADAPTERS := .venv-adapters
ADAPTERS_READY := $(ADAPTERS)/.ready
ADAPTERS_WEBSOCKETS := websockets==16.1.1
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Some images forbid Python to keep what it has compiled. The tests start hundreds of processes, which would each
# compile all of it again: a third of their work.
unexport PYTHONDONTWRITEBYTECODE
PROTOS := $(wildcard proto/southwest/ai/agent/v1/*.proto)
# Tests wait more than they compute: some more processes than most machines have cores.
TEST_WORKERS ?= 4
# Some campaigns wait, some compute.
SLOW_WORKERS ?= $(shell expr 2 + $$(getconf _NPROCESSORS_ONLN))
# What takes longest begins first, and what is in small parts comes last: so no process is left alone with much.
LONGEST_FIRST := $(addprefix tests/test_,$(addsuffix .py,proxies page tools_mcp serve page_reach \
	tools_mcp_served signing_keys edge_openapi simulation journal_processes edge_sse commander_process faults \
	cli_failover link edge_sessions authors agents_page demo restart cli_operate edge_agui delegation keepalive \
	page_network edge_connections admin commander_failover page_lag edge_who bad_peers page_standing bench \
	models_page))
TEST_FILES = $(LONGEST_FIRST) $(filter-out $(LONGEST_FIRST),$(wildcard tests/test_*.py))
SLOW_LONGEST_FIRST := tests/test_soak.py tests/test_keepalive.py tests/test_fuzz.py tests/test_router.py
SLOW_FILES = $(SLOW_LONGEST_FIRST) $(filter-out $(SLOW_LONGEST_FIRST),$(shell grep -l 'mark\.slow' tests/test_*.py))
# The contract as last released. `make released-proto` moves it forward.
RELEASED := proto/released.binpb

.PHONY: help setup demo proto released-proto check-proto format check-format lint types docs check-docs test slow interop bench check clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  %-16s%s\n", $$1, $$2}'

setup: $(READY) ## Make .venv with everything, from pinned versions

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found. Install it, or say where: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version). This takes a minute, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev,http,llm,mcp]'
	@touch $@

demo: $(READY) ## Run a dispatcher, two commanders and a real conversation
	@$(BIN)/python -m scripts.demo

proto: $(READY) ## Make the stubs in gen/ from proto/
	@rm -rf gen/southwest && mkdir -p gen
	@$(BIN)/python -m grpc_tools.protoc -I proto --python_out=gen --grpc_python_out=gen \
		--mypy_out=gen --mypy_grpc_out=gen $(PROTOS)

released-proto: $(READY) ## Make today's contract the one that `buf breaking` holds us to
	@$(BIN)/buf build --as-file-descriptor-set --exclude-source-info -o $(RELEASED)

check-proto: $(READY) ## The contract: lint, format, no breaking change, no drift of gen/
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code
	@$(BIN)/buf breaking --against $(RELEASED)
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
		$(BIN)/python -m grpc_tools.protoc -I proto --python_out="$$fresh" --grpc_python_out="$$fresh" \
			--mypy_out="$$fresh" --mypy_grpc_out="$$fresh" $(PROTOS) && \
		diff -r -x __pycache__ "$$fresh/southwest" gen/southwest || { echo "gen/ is not what proto/ says: run make proto" >&2; exit 1; }

format: $(READY) ## Format code and contract
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --select I .
	@$(BIN)/buf format -w

check-format: $(READY)
	@$(BIN)/ruff format --check .

lint: $(READY) ## Lint the code
	@$(BIN)/ruff check .

types: $(READY) ## Check the types
	@$(BIN)/mypy

docs: $(READY) ## Make the generated parts of README.md and docs/
	@$(BIN)/python -m scripts.generate_docs

check-docs: $(READY)
	@$(BIN)/python -m scripts.generate_docs --check

test: $(READY) ## Run every test that needs no root
	@$(BIN)/python -m pytest -rs -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(TEST_FILES)

slow: export LAW_EXAMPLES ?= 1000
slow: $(READY) ## Run the slow campaigns, those that measure first; bound them with SLOW_SECONDS=… SIMULATION_RUNS=… LAW_EXAMPLES=…
	@$(BIN)/python -m pytest -v -rs -m 'slow and alone' --override-ini timeout=0 $(SLOW_FILES)
	@$(BIN)/python -m pytest -v -rs -m 'slow and not alone' --override-ini timeout=0 -n $(SLOW_WORKERS) --dist loadgroup $(SLOW_FILES)
	@$(BIN)/python -m pytest -rs -m 'hypothesis and not slow' --override-ini timeout=0 -n $(SLOW_WORKERS) --dist loadfile $(TEST_FILES)

$(INTEROP_READY): $(READY)
	@echo "Adding the clients of others to $(VENV). This takes a moment, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev,llm,mcp,interop]'
	@touch $@

$(ADAPTERS_READY): pyproject.toml constraints.txt
	@echo "Setting up $(ADAPTERS) for agents of others. This takes a minute, once."
	@$(PYTHON) -m venv $(ADAPTERS)
	@sed 's/^websockets==.*/$(ADAPTERS_WEBSOCKETS)/' constraints.txt > $(ADAPTERS)/constraints.txt
	@$(ADAPTERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(ADAPTERS)/constraints.txt hatchling editables
	@$(ADAPTERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(ADAPTERS)/constraints.txt \
		--no-build-isolation -e '.[dev,llm,adapters]' langchain-openai
	@touch $@

interop: $(INTEROP_READY) $(ADAPTERS_READY) ## Try clients of others, and their agents: Vercel's, AG-UI, grpc-js, OpenAI's, LangGraph
	@$(BIN)/python -m scripts.interop
	@$(BIN)/python -m pytest -rs -m interop --ignore tests/interop/adapters tests/interop
	@$(ADAPTERS)/bin/python -m pytest -rs -m interop tests/interop/adapters

bench: $(READY) ## Measure, as ratios; results also as JSON in bench/results/
	@$(BIN)/python -m bench

check: check-proto check-format lint types check-docs test ## What CI runs

clean: ## Remove what was made
	@rm -rf $(VENV) $(ADAPTERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
