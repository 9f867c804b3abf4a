# `make demo` and `make test` do all the set-up themselves: a virtual environment beside this file, everything installed into it.
# For torch without CUDA on Linux: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Each of the test workers is one process on one core; threads of the maths libraries would only fight over them.
TEST_ENV := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg

.DEFAULT_GOAL := help
.PHONY: help zoo install demo test test-all bench bench-convert bench-quantization lint format breadth matrix micro-kernels docs clean

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable '.[dev]'
	touch $@

install: $(STAMP) ## Make the virtual environment and install edgewright with all that its tests need.

demo: $(STAMP) ## Export a real ImageNet model for three targets and prove each artifact on its runtime.
	$(BIN)/python -m tools.demo

test: $(STAMP) ## Run the tests, the slow ones aside.
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST_ARGS)

test-all: $(STAMP) ## Run all tests.
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

floors: $(STAMP) ## Convert the same tests for TFLite 2.14 and run them on that release, which pip fetches once.
	$(TEST_ENV) $(BIN)/python -m tools.floors

conformance: $(STAMP) ## Convert the ONNX project's own node tests to TFLite, float and int8, run them on LiteRT and write down which pass.
	$(TEST_ENV) $(BIN)/python -m tools.conformance --expect tests/conformance/expected.json
	$(TEST_ENV) $(BIN)/python -m tools.conformance --int8 --expect tests/conformance/expected_int8.json

lint: $(STAMP) ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Put the sources in the one format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure time and memory as ratios beside a peer.
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.bench

bench-convert: $(STAMP) ## Convert every zoo model beside onnx2tf and litert-torch (fetched once, gigabytes) and write docs/benchmarks.md.
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.bench convert

bench-quantization: $(STAMP) ## Quantize every zoo model beside the peers (environments fetched once, gigabytes; an hour or two) and write docs/benchmarks.md.
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps timm==1.0.31
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.bench quantization

breadth: $(STAMP) ## Export every timm family and some transformers configurations, random weights, float and int8 (an hour or two).
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps timm==1.0.31
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) transformers==5.23.0
	$(BIN)/python -m tools.breadth

zoo: $(STAMP) ## Write every zoo model in float32, float16 and int8, measure each on held-out data and write docs/zoo.md (half an hour).
	$(TEST_ENV) $(BIN)/python -m tools.zoo_table

matrix: $(STAMP) ## Export every zoo model for every target, prove or refuse it, and write docs/targets.md (hours; rows that are there are kept).
	$(TEST_ENV) $(BIN)/python -m tools.matrix

micro-kernels: $(STAMP) ## Run every family of integer kernels on tflite-micro and LiteRT's reference kernels, and write docs/micro_kernels.md.
	$(TEST_ENV) $(BIN)/python -m tools.micro_kernels

docs: $(STAMP) ## Write the generated pages of docs/ again.
	$(BIN)/python -m tools.make_docs

clean: ## Remove all that the other targets made.
	rm -rf $(VENV) build dist bundles .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
