# What README and CI call. `make demo` and `make test` set themselves up in .venv first.

PYTHON ?= python3
# Any torch from 2.10 on works; one is named so that runs can be repeated.
TORCH ?= torch==2.13.0
# Options of `l1sparse demo`, such as DEMO="--epochs 3".
DEMO ?=
# Options of benchmarks/latency.py, such as BENCH="--suite resnet50".
BENCH ?=
# Options of benchmarks/model.py, such as MODELS="--network resnet50 --threads 2".
MODELS ?=
# Options of pytest, such as TEST="-k pack".
TEST ?=
# Options of the C++ fuzzer, such as FUZZ="--count 10000 --seed 5000 --isa avx2 --strategy pixels".
FUZZ ?= --count 1000

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
NATIVE := $(shell find csrc -type f) setup.py pyproject.toml
CPP := $(shell find csrc tests/csrc -name '*.cpp' -o -name '*.h')

.PHONY: demo bench models test fuzz sanitize lint format clean

demo: $(READY)
	$(BIN)/l1sparse demo $(DEMO)

bench: $(READY)
	$(BIN)/python benchmarks/latency.py $(BENCH)

models: $(READY)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[runtimes]'
	$(BIN)/python benchmarks/model.py $(MODELS)

test: $(READY)
	$(BIN)/python -m pytest $(TEST)

# Random convolutions, compiled as the extension is; then all C++ tests, under sanitizers.
fuzz:
	$(MAKE) -C tests/csrc MODE=release fuzz FUZZ="$(FUZZ)"

sanitize:
	$(MAKE) -C tests/csrc check FUZZ="$(FUZZ)"
	$(MAKE) -C tests/csrc MODE=race race

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf $(VENV) build *.egg-info l1sparse/*.so

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)" "setuptools>=77" ninja
	touch $@

# Without build isolation: the extension is built against the torch that is there, not a second one.
$(READY): $(VENV)/torch $(NATIVE)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[benchmark,demo,test,lint]'
	touch $@
