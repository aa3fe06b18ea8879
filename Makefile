# make demo | test | test-all | lint | docs | bench: each sets up its environment first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One file beside another, in their order, which has long ones first; on one thread each, since two
# threads of small matrices wait for each other.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint docs bench clean

demo: $(READY)
	$(BIN)/lensllm run demo

test: $(READY)
	$(TESTS)

test-all: $(READY)
	$(TESTS) -m "full or not full"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# build/site, which opens without a server; a link that leads nowhere is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python -m bench

# The constraints are the tested set; without them pip takes the newest that pyproject.toml allows.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lensllm needs Python 3.11 or later: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
