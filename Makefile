PYTHON ?= python3
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .oldest
ARGS ?=
RUN ?= build/bench-gpu-curves

.PHONY: setup demo test test-gpu check bench bench-gpu bench-gpu-curves clean

setup: $(VENV)/.ready $(OLDEST)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,eval,ray,report,dev]'
	touch $@

# The oldest supported transformers, beside the newest one that .venv holds.
$(OLDEST)/.ready: constraints-oldest.txt $(VENV)/.ready
	rm -rf $(OLDEST)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(OLDEST) -r constraints-oldest.txt
	touch $@

demo: $(VENV)/.ready
	$(BIN)/lavakv demo --seed $(SEED)

test: setup
	$(BIN)/pytest -n 2
	PYTHONPATH=$(OLDEST) $(BIN)/pytest -n 2 tests/hf

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/lavakv bench

# A GPU machine has its own torch and perhaps no network, so nothing is set up here.
test-gpu:
	PYTHONPATH=src $(PYTHON) -m pytest -q tests/gpu

bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py $(ARGS)

bench-gpu-curves:
	PYTHONPATH=src $(PYTHON) -c 'from lavakv.cli.main import main; main()' bench --shape llama-3.1-8b \
		--tokens 1024,8192,32768,max --budgets 256,1024 --batch-sizes 1,8 --out $(RUN) $(ARGS)

clean:
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
