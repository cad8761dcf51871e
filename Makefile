# Everything a developer and .ci/run do. `make` alone lists the targets; a bare python3 (3.11 or newer, with venv) is enough.
PYTHON       ?= python3
VENV         ?= .venv
PROTO_VENV   ?= .venv-proto
JOBS         ?= 2
COVERAGE_MIN ?= 90
# Where pip also looks for torch. https://download.pytorch.org/whl/cpu spares machines without a GPU the CUDA libraries.
TORCH_INDEX  ?=

BIN         := $(VENV)/bin
INSTALLED   := $(VENV)/.installed
PROTO_TOOLS := grpcio-tools==1.71.2
GENERATED   := wire_pb2.py wire_pb2.pyi
PIP_OPTIONS := --quiet --disable-pip-version-check
PYTEST      := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal -q

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all faults soak fuzz lint format bench bench-quick proto proto-check dist clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) JOBS=$(JOBS) TORCH_INDEX=$(TORCH_INDEX)"

venv: $(INSTALLED) ## Set up .venv from constraints.txt (every target that needs it does so by itself)

$(INSTALLED): pyproject.toml constraints.txt protocol/_kernel.c
	@echo "Setting up $(VENV) from constraints.txt; the first time fetches torch and takes some minutes."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make a virtual environment: install python3-venv, or set PYTHON=..."; exit 1; }
	@$(BIN)/python -m pip install $(PIP_OPTIONS) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## Train real nodes on this machine, merge them over gRPC and compare with training alone
	@$(BIN)/peermerge simulate deploy/simulations/demo.toml --network grpc --out demo-out

test: $(INSTALLED) ## Run the tests (COVERAGE=1: node and protocol must each reach 90 % of their lines)
	@rm -f .coverage .coverage.*
	@$(PYTEST) -m "not slow and not faults" $(if $(COVERAGE),--cov --cov-report=)
	@$(PYTEST) -m "not slow and faults"
	@for package in $(if $(COVERAGE),node protocol); do \
	  echo "-- $$package"; $(BIN)/coverage report --include="$$package/*" --fail-under=$(COVERAGE_MIN) || exit 1; \
	done

test-all: $(INSTALLED) ## Run the slow tests too
	@$(PYTEST)

faults: $(INSTALLED) ## Hurt real and simulated nodes in every way, at full length; some tests need root
	@$(PYTEST) -m faults

soak: $(INSTALLED) ## Let 8 real nodes run 1,000 rounds with a fault every 30 s (SOAK="--nodes 4 --seconds 60")
	@$(BIN)/python -m tests.soak $(or $(SOAK),--nodes 8 --rounds 1000)

fuzz: $(INSTALLED) ## Fuzz all that strangers' bytes reach (FUZZ_SECONDS=600); findings go to build/fuzz
	@$(BIN)/python -m tests.fuzz --seconds $(or $(FUZZ_SECONDS),600) --jobs $(JOBS)

lint: $(INSTALLED) ## Check style, types and who imports whom
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@MYPYPATH=benchmarks $(BIN)/mypy benchmarks
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(INSTALLED) ## Run every benchmark in benchmarks/ at full size
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

bench-quick: $(INSTALLED) ## Run every benchmark in benchmarks/ at a small size
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script --quick || exit 1; done

# Generated code refuses runtimes older than its generator, so it is made with the oldest tools we support, in a venv of
# their own. The virtual path peermerge/protocol/ gives the file a name that clashes with nobody's in protobuf's pool.
$(PROTO_VENV)/.installed: Makefile
	@echo "Setting up $(PROTO_VENV) with $(PROTO_TOOLS)."
	@$(PROTO_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip install $(PIP_OPTIONS) $(PROTO_TOOLS)
	@touch $@

build/proto/.generated: protocol/wire.proto $(PROTO_VENV)/.installed
	@rm -rf build/proto && mkdir -p build/proto
	@$(PROTO_VENV)/bin/python -m grpc_tools.protoc -Ipeermerge/protocol=protocol \
	  --python_out=build/proto --pyi_out=build/proto peermerge/protocol/wire.proto
	@sed -i 's/^from peermerge\.protocol import/from . import/' $(addprefix build/proto/peermerge/protocol/,$(GENERATED))
	@touch $@

proto: build/proto/.generated ## Regenerate protocol/wire_pb2.py and .pyi from wire.proto
	@cp $(addprefix build/proto/peermerge/protocol/,$(GENERATED)) protocol/

proto-check: build/proto/.generated ## Compare the committed protobuf code with a fresh one
	@for file in $(GENERATED); do diff -u protocol/$$file build/proto/peermerge/protocol/$$file || \
	  { echo "protocol/$$file is not what protocol/wire.proto generates: run 'make proto'."; exit 1; }; done
	@echo "The committed protobuf code is what protocol/wire.proto generates."

dist: $(INSTALLED) ## Build wheel and sdist into dist/ and check what they hold
	@rm -rf dist build/lib build/bdist.*
	@$(BIN)/python -m build --quiet
	@$(BIN)/python .ci/check_dist.py dist

clean: ## Remove what building, testing and the demo left behind
	@rm -rf build dist demo-out bench-out htmlcov .coverage .coverage.* .hypothesis
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## The same, and .venv and .venv-proto
	@rm -rf .venv .venv-proto *.egg-info
