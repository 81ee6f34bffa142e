# Every target sets up what it needs in .venv by itself and works without the others.
# Assumed: Python 3.10 or newer, a C++20 compiler, make. nvcc, where it is on the PATH, adds the CUDA kernels.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -q
SOURCES := CMakeLists.txt pyproject.toml $(shell find plan ops_cpu ops_cuda custom_ops cmake ort_cks graph_rewrite tests/cpp -type f -not -name '*.pyc')
CXX_FILES := $(shell find plan ops_cpu ops_cuda custom_ops tests/cpp benchmarks -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh')
# Editable, so that what is run from this folder is this folder; built in a folder that stays, by tools that stay (pip
# would make an environment for them anew each time, and scikit-build-core empties the folder when its own has moved), so
# that a second build compiles only what changed.
INSTALL := $(PIP) install --no-build-isolation -C build-dir=build/dev -C cmake.define.ORT_CKS_BUILD_TESTS=ON -e

.PHONY: demo test lint format clean

demo: $(VENV)/demo.stamp
	$(VENV)/bin/python examples/demo.py

test: $(VENV)/test.stamp
	$(VENV)/bin/python -m pytest tests

lint: $(VENV)/lint.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/lint.stamp
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) build dist .demo

$(VENV)/python.stamp:
	$(PYTHON) -m venv $(VENV)
	touch $@

# What pyproject.toml wants for a build.
$(VENV)/build.stamp: $(VENV)/python.stamp
	$(PIP) install 'scikit-build-core>=0.10' 'cmake>=3.25' ninja
	touch $@

$(VENV)/demo.stamp: $(VENV)/build.stamp $(SOURCES)
	$(INSTALL) '.[cpu]'
	touch $@

$(VENV)/test.stamp: $(VENV)/build.stamp $(SOURCES)
	$(INSTALL) '.[cpu,test]'
	touch $@

$(VENV)/lint.stamp: $(VENV)/python.stamp
	$(PIP) install ruff==0.17.6 clang-format==23.1.5
	touch $@
