# make demo | test | test-slow | test-frameworks | prove | bench | lint | wheels | matrix | clean
#
# Every target sets up .venv first when it is missing or out of date. Choices, with their defaults:
#   make test PYTHON=python3.12            the interpreter that .venv is made with
#   make test TORCH='torch==2.11.0'        what to install as torch; pip options may follow, such as
#                                          TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
#   make test PYTEST_ARGS='-k cyclic'      what pytest is given
#   make test-frameworks FRAMEWORKS_ARGS='-k timm'    likewise, where torch is that of tests/frameworks/requirements.txt
#   make prove PROOF=nestings SIZE=10000 SEED=7    one proof, its size and seed; see CONTRIBUTING.md
#   make wheels CUDA=1 WHEEL_TORCH='torch==2.14.1' one with the CUDA library too; the torch that they are tried with
#   make matrix MATRIX='3.12:2.15.0 3.11:2.13.0:3.6.0'    Python, torch and perhaps Triton, in place of all combinations
PYTHON ?= python3
TORCH ?= torch==2.13.0
PYTEST_ARGS ?= -n 2
FRAMEWORKS_ARGS ?= -n 2 --dist loadfile

VENV := .venv
BIN := $(VENV)/bin
FRAMEWORKS := .venv-frameworks
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := $(wildcard csrc/*.* csrc/*/*.*)
MODULES := $(shell find fused_sched kernels -name '*.py*' ! -path '*/__pycache__/*')

.PHONY: help demo test test-slow test-frameworks prove bench lint wheels matrix clean FORCE
.DELETE_ON_ERROR:

help:
	@echo "make demo             train digits with every scheduler, beside torch, on a GPU if there is one; charts go to demo_output/"
	@echo "make test             run the tests, but for the slow ones"
	@echo "make test-slow        run the slow ones"
	@echo "make test-frameworks  run the tests with Lightning, transformers, Accelerate and others, in an environment of its own"
	@echo "make prove            run tests at sizes that take long, and note what came of it in proofs/results.jsonl"
	@echo "make bench            run the benchmarks"
	@echo "make lint             ruff, mypy, and what mypy and pyright make of the package's types"
	@echo "make wheels           build wheels into dist/, and try them without a compiler, with another torch"
	@echo "make matrix           with the wheel, the tests with every torch, Python and Triton that can be had"
	@echo "make clean            remove .venv and everything that was built"

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

# The tests of tests/gpu run a second time because in one process Triton either interprets or compiles.
define run_tests
	$(BIN)/pytest -m "$(1)" $(PYTEST_ARGS)
	@if command -v $${CXX:-g++} >/dev/null; then echo "== tests/gpu, on the simulated GPU where there is no real one"; \
		FUSED_SCHED_TEST_PTX=fibers $(BIN)/pytest -m "$(1)" $(PYTEST_ARGS) tests/gpu || [ $$? -eq 5 ]; fi
endef

test: $(VENV)/installed
	$(call run_tests,not slow)

test-slow: $(VENV)/installed
	$(call run_tests,slow)

test-frameworks: $(FRAMEWORKS)/installed
	FUSED_SCHED_TEST_FRAMEWORKS=1 FUSED_SCHED_TEST_PACKAGE=$(CURDIR)/$(FRAMEWORKS) \
		$(FRAMEWORKS)/bin/pytest $(FRAMEWORKS_ARGS) tests/frameworks

prove: $(VENV)/installed
	$(BIN)/python tests/prove.py $(PROOF) $(if $(SIZE),--size $(SIZE)) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/peers
	$(BIN)/python benchmarks/run.py

lint: $(VENV)/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_types.py

wheels: $(VENV)/wheelwright
	.ci/wheels

matrix: $(VENV)/wheelwright
	$(BIN)/python tests/matrix.py $(MATRIX)

clean:
	rm -rf $(VENV) $(FRAMEWORKS) build dist demo_output gpt_output *.egg-info fused_sched/*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The empty files below $(VENV) and $(FRAMEWORKS) are stamps: made after the step succeeded, compared by time.

$(VENV)/created $(FRAMEWORKS)/created:
	@command -v $(PYTHON) >/dev/null || { echo "error: PYTHON=$(PYTHON) is not there: install Python 3.10 or newer, or name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: PYTHON=$(PYTHON) is $$($(PYTHON) -V 2>&1), but 3.10 or newer is needed: name one with make PYTHON=..." >&2; exit 1; }
	@echo "== creating $(@D) with $$($(PYTHON) -V)"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D) || { rm -rf $(@D); echo "error: $(PYTHON) -m venv failed: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@touch $@

# Holds the value of TORCH, and is rewritten only when that changes.
$(VENV)/torch: $(VENV)/created FORCE
	@if [ "$$(cat $@ 2>/dev/null)" != "$(TORCH)" ]; then \
		echo "== installing $(TORCH) (the first time this may download a lot)" && \
		$(PIP) install $(TORCH) && \
		printf '%s\n' "$(TORCH)" > $@; \
	fi

$(VENV)/installed: $(VENV)/torch pyproject.toml setup.py $(SOURCES)
	@echo "== installing the build tools"
	@$(PIP) install "setuptools>=77" wheel numpy
	@echo "== building fused_sched and installing it, editable, with what the tests need"
	@$(PIP) install --no-build-isolation -e '.[test]' || { echo "error: fused_sched could not be built or installed: see above; it needs a C++17 compiler (on Debian and Ubuntu, apt install g++)" >&2; exit 1; }
	@$(BIN)/python -m fused_sched | sed -n '/^backends/,/^$$/p'
	@touch $@

# fused_sched is installed already: these add what an extra names without building it again.
$(VENV)/peers: $(VENV)/installed
	@echo "== installing the libraries to compare with"
	@$(PIP) install 'fused_sched[bench]'
	@touch $@

$(VENV)/wheelwright: $(VENV)/installed
	@echo "== installing what makes and tries wheels"
	@$(PIP) install 'fused_sched[wheels]'
	@touch $@

$(VENV)/linters: $(VENV)/installed
	@echo "== installing the linters"
	@$(PIP) install 'fused_sched[dev]'
	@touch $@

# An environment beside the first one, with another torch. What is compiled for that goes nowhere else: the package is
# built in a folder there, and not installed editable.
$(FRAMEWORKS)/required: $(FRAMEWORKS)/created tests/frameworks/requirements.txt
	@echo "== installing the frameworks, and a torch for them (the first time this may download a lot)"
	@$(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check --quiet install -r tests/frameworks/requirements.txt
	@touch $@

$(FRAMEWORKS)/installed: $(FRAMEWORKS)/required pyproject.toml setup.py $(SOURCES) $(MODULES)
	@echo "== building fused_sched and installing it"
	@rm -rf $(FRAMEWORKS)/build
	@printf '[build]\nbuild_base = $(FRAMEWORKS)/build\n' > $(FRAMEWORKS)/build.cfg
	@DIST_EXTRA_CONFIG=$(CURDIR)/$(FRAMEWORKS)/build.cfg FUSED_SCHED_BUILD_CPU=1 FUSED_SCHED_BUILD_CUDA=0 \
		$(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check --quiet install --no-build-isolation --no-deps .
	@touch $@
