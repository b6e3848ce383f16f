PYTHON ?= python3
SEED ?= 0
VENV := .venv
DOCS_VENV := .venv-docs
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
ARGS ?=
RUN ?= build/bench-gpu-curves

# The releases of transformers that are tested: the one that constraints.txt pins (everything), the oldest supported one
# (constraints-oldest.txt), those between at which something changed that we rely on, and the registry's newest.
OLDEST := .oldest
NEWEST := .newest
# 5.23.0: the last one whose models take the cache as past_key_values only.
BETWEEN := 5.23.0
ON_OLDEST_AND_NEWEST := tests/hf tests/test_readme.py
ON_BETWEEN := $(addprefix tests/hf/test_,enable.py calls.py contract.py plain.py turns.py not_enabled.py) tests/test_readme.py

.PHONY: setup newest demo test test-gpu test-vllm test-transformers test-wheel dist check docs docs-cli bench gpu-check \
	bench-gpu bench-gpu-curves compare-policies clean

setup: $(VENV)/.ready $(OLDEST)/.ready $(BETWEEN:%=.transformers/%/.ready) newest

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,eval,ray,report,dev]'
	touch $@

$(OLDEST)/.ready: constraints-oldest.txt .ci/versions.py $(VENV)/.ready
	$(BIN)/python .ci/versions.py install $(OLDEST) "$$(cat constraints-oldest.txt)"

.transformers/%/.ready: .ci/versions.py $(VENV)/.ready
	$(BIN)/python .ci/versions.py install .transformers/$* transformers==$*

newest: $(VENV)/.ready
	$(BIN)/python .ci/versions.py newest $(NEWEST)

demo: $(VENV)/.ready
	$(BIN)/lavakv demo --seed $(SEED)

test: setup
	$(BIN)/pytest -n 2
	PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/pytest -n 2 $(ON_OLDEST_AND_NEWEST)
	set -e; for version in $(BETWEEN); do \
		PYTHONPATH=$(CURDIR)/.transformers/$$version $(BIN)/pytest -n 2 $(ON_BETWEEN); done
	if test -d $(NEWEST)/transformers; then \
		PYTHONPATH=$(CURDIR)/$(NEWEST) $(BIN)/pytest -n 2 $(ON_OLDEST_AND_NEWEST); \
	else echo "newest transformers: the same as the pinned release, or not available; not run"; fi

# A wheel and a source distribution; the wheel is built from the latter.
dist: $(VENV)/.ready
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

# The wheel in an empty environment outside the checkout: the README's Python and the command.
test-wheel: dist
	$(BIN)/python .ci/wheel.py dist

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation site, in build/site: README, docs and docstrings. Any warning, such as a link to a page or heading
# that does not exist, is an error. It reads the package without importing it, so its environment has no PyTorch.
docs: $(DOCS_VENV)/.ready
	$(DOCS_VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --conf-dir docs/tools \
		--doctree-dir build/doctrees docs build/site
	@echo "open build/site/index.html"

$(DOCS_VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(PYTHON) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		> $(DOCS_VENV)/requirements.txt
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-r $(DOCS_VENV)/requirements.txt
	touch $@

# The pages of the commands, docs/cli, from what makes their help. A test fails while they are out of date.
docs-cli: $(VENV)/.ready
	$(BIN)/python docs/tools/cli_pages.py

bench: $(VENV)/.ready
	$(BIN)/lavakv bench

# transformers' own generation and cache tests with our cache, e.g. TRANSFORMERS_TESTS=../transformers
# ARGS="--models llama,gemma3". Exit code 2 where there are no tests of the installed release.
test-transformers: $(VENV)/.ready
	PYTHONPATH=compat $(BIN)/python -m transformers_suite $(if $(TRANSFORMERS_TESTS),--tests '$(TRANSFORMERS_TESTS)') $(ARGS)

# A GPU machine has its own torch and perhaps no network, so nothing is set up here.
test-gpu:
	PYTHONPATH=src $(PYTHON) -m pytest -q tests/gpu

# Tests and figures in one command of less than ten minutes; says what is not installed and goes on.
gpu-check:
	PYTHON='$(PYTHON)' bash benchmarks/gpu_check.sh $(ARGS)

# Inside vLLM, in an environment of its own (2.5 GB). The last line says whether they ran: vLLM's build for a CPU is not to
# be had everywhere. ARGS goes to pytest, e.g. ARGS="tests/vllm/test_contract.py".
test-vllm:
	$(PYTHON) .ci/vllm_tests.py $(VLLM_VENV) $(ARGS)

bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py $(ARGS)

bench-gpu-curves:
	PYTHONPATH=src $(PYTHON) -c 'from lavakv.cli.main import main; main()' bench --shape llama-3.1-8b \
		--tokens 1024,8192,32768,max --budgets 256,1024 --batch-sizes 1,8 --no-generate --out $(RUN) $(ARGS)

# The records behind docs/policies-compared.md, and the page: e.g. ARGS="--data-dir DATA --haystack ESSAYS" for
# everything, ARGS="--models smollm2 --parts ruler --limit 1 --policies lava,residual" for a try. Hours; resumes.
compare-policies: $(VENV)/.ready
	$(BIN)/python benchmarks/compare_policies.py $(ARGS)

clean:
	rm -rf $(VENV) $(DOCS_VENV) $(VLLM_VENV) $(OLDEST) $(NEWEST) .transformers dist .pytest_cache .mypy_cache .ruff_cache .hypothesis build
