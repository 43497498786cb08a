# make demo · make test · make bench — each creates and fills .venv by itself.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STUBS := protos/inferd_api
PROTOS := $(shell find protos -name '*.proto' | sort)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test bench lint stubs clean

demo: .venv/.base
	@$(BIN)/inferd pull smollm2
	@$(BIN)/inferd run smollm2 "What is the capital of France?"

test: .venv/.dev lint
	@$(BIN)/python -m pytest $(ARGS)

# One JSON line per figure; `make bench ONLY=served.b32` runs a part.
bench: .venv/.dev
	@$(BIN)/python tests/bench/main.py $(ONLY)

lint: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy kernel/inferd plugins/inferd_cpu clients/python/inferd_client
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against protos/baseline.binpb

# The committed protobuf code; tests/arch compares it with a fresh run, byte by byte.
stubs: .venv/.dev
	@$(BIN)/python -m grpc_tools.protoc -Iprotos -I$$($(BIN)/python -c "import googleapiclient" 2>/dev/null; $(BIN)/python -c "import google.rpc, os; print(os.path.dirname(os.path.dirname(list(google.rpc.__path__)[0])))") \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=protos --grpc_python_out=protos --mypy_out=protos --mypy_grpc_out=protos $(PROTOS)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "inferd needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …")'
	@echo "creating .venv"
	@$(PYTHON) -m venv .venv
	@$(PIP) install -U pip

.venv/.base: pyproject.toml .venv/bin/python
	@echo "installing inferd into .venv (about a minute)"
	@$(PIP) install -e .
	@touch $@

.venv/.dev: pyproject.toml .venv/.base
	@echo "installing the tools of the tests into .venv"
	@$(PIP) install --group dev
	@touch $@

clean:
	@rm -rf .venv
