# make sanitize | make fuzz | make oom | make forge | make large | make arm: what it survives
# make demo | make test [EXTRAS=peers] [TORCH_INDEX=...] | make bench | make lessons | make docs | make lint
#
# Everything goes into .venv; python3 (3.11 or newer) with its headers, and a C compiler, are all
# that must be there. What is built is built once: extras are installed beside it.

PYTHON ?= python3
EXTRAS ?=
BIN := .venv/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
SOURCES := setup.py pyproject.toml README.md $(shell find optkern -name '*.py' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.tp' -o -name '*.h' -o -path '*/demo/assets/*')
comma := ,
# On Linux the package index has torch with CUDA, gigabytes of it. TORCH_INDEX says where its CPU
# wheels are: https://download.pytorch.org/whl/cpu. What is in .venv and will do is not fetched again.
TORCH_INDEX ?=
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# The version that the tests have run with, where none is there yet.
TORCH = $(if $(findstring peers,$*)$(findstring torch,$*),$$($(BIN)/python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null || echo torch==2.13.0))
# The requirements of extras (and what optkern itself needs), or of the build, as pyproject.toml names them.
REQUIRED := $(BIN)/python -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb")); extras = project["project"]["optional-dependencies"]; print(*sum((extras[e] for e in sys.argv[1].split(",")), project["project"]["dependencies"]) if sys.argv[1:] else project["build-system"]["requires"], sep="\n")'

.PHONY: demo test bench lessons docs wheels free-threading abi3 mutants lint clean sanitize fuzz oom forge large arm s390x clang

demo: .venv/built .venv/extras-demo
	$(BIN)/optkern demo $(ARGS)

test: .venv/built .venv/extras-demo,test$(if $(EXTRAS),$(comma)$(EXTRAS))
	$(BIN)/pytest -n auto $(ARGS)

bench: .venv/built .venv/extras-demo,test,bench
	$(BIN)/optkern bench $(ARGS)

# Each claim of a course in a script that measures it and draws it; the pictures are in build/lessons.
# What each takes is said; longer than 12 minutes for all is an error.
lessons: .venv/built .venv/extras-demo
	@$(BIN)/python tools/lessons.py $(ARGS)

# The site, in build/docs/html: a page for each rule and public name, the lessons run. Any warning is
# an error: a name without a page, a link that leads nowhere, an example that fails. It is to take less
# than 8 minutes on two cores that are free; what it took is said, and decides nothing: so does the load.
docs: .venv/built .venv/extras-demo,docs
	@mkdir -p build && date +%s > build/docs-began
	$(BIN)/python -m sphinx -q -W --keep-going -n -d build/docs/doctrees $(ARGS) docs build/docs/html
	@echo "the pages are in build/docs/html/index.html; $$(($$(date +%s) - $$(cat build/docs-began))) s, of 480 that they may take"

# Against the sources as they are: nothing is built for it.
lint: .venv/extras-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(BIN):$$PATH" cython-lint optkern
	$(BIN)/mypy --strict tests/typing_check.py

.venv/bin/python:
	@command -v $(PYTHON) > /dev/null || { echo 'optkern: there is no $(PYTHON): make PYTHON=... takes another, 3.11 or newer (Debian, Ubuntu: apt install python3-dev python3-venv; Fedora: dnf install python3-devel; macOS: python.org or Homebrew)'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "optkern needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@$(PYTHON) setup.py needs
	$(PYTHON) -m venv .venv

# Built here, where one sees how far it is, and then installed: pip takes what is in build/, and
# where that is as new as the sources compiles nothing. Only what changed is compiled. A copy beside
# the sources serves whoever starts Python in this folder.
.venv/built: .venv/bin/python $(SOURCES)
	@$(BIN)/python setup.py needs
	@echo 'building optkern into .venv: all of it once, later only what has changed'
	@$(REQUIRED) > .venv/required && $(PIP) install -r .venv/required
	@if [ -d build ]; then find build -path 'build/lib*' -name '*.py*' -delete; fi
	@$(BIN)/python -u setup.py -q build
	@$(PIP) install --no-build-isolation --no-deps --force-reinstall .
	@$(BIN)/python setup.py beside
	@touch '$@'

.venv/extras-%: .venv/bin/python pyproject.toml
	@echo 'installing what $* takes'
	@$(REQUIRED) '$*' > '.venv/required-$*' && $(PIP) install $(INDEX) $(TORCH) -r '.venv/required-$*'
	@touch '$@'

# What an index gets, in build/wheels: a wheel for each Python out of the source distribution, checked,
# installed where nothing of this folder is, and tested there by the whole fast suite.
PYTHONS ?= $(BIN)/python
wheels: .venv/bin/python
	$(BIN)/python tools/wheels.py $(PYTHONS) $(ARGS)

# On a free-threaded Python (make PYTHON=python3.14t free-threading): an import leaves the GIL off, the
# suite passes, two threads with an optimizer each do not wait for each other. Without the extras: not
# all of them have such wheels (safetensors has not).
free-threading: .venv/built
	$(PIP) install --only-binary hypothesis pytest pytest-benchmark pytest-xdist hypothesis ml_dtypes
	$(BIN)/python -W error -c 'import sys, optkern; sys.exit(sys._is_gil_enabled())'
	$(BIN)/pytest -q -n auto $(ARGS)
	$(BIN)/python bench/bench_free_threading.py --seconds .5

# One binary for all versions of Python, by the limited API: kept possible, not what is published (calls
# are slower). It is to name nothing beyond that API, and to have the recorded bits: make abi3
# LATER=python3.14 tries them there too.
abi3: .venv/built .venv/extras-demo,test
	$(PIP) install abi3audit
	rm -rf build/abi3/*.whl build/abi3/env
	OPTKERN_ABI3=1 OPTKERN_BUILD_ISA=baseline $(BIN)/python setup.py -q build --build-base=build/abi3 bdist_wheel --dist-dir build/abi3
	$(BIN)/abi3audit --strict --report build/abi3/*.whl > build/abi3/audit.json
	$(or $(LATER),$(BIN)/python) -m venv build/abi3/env
	build/abi3/env/bin/pip --quiet --disable-pip-version-check install build/abi3/*.whl pytest pytest-benchmark hypothesis
	build/abi3/env/bin/python -P tests/recorded.py check
	build/abi3/env/bin/python -P -m pytest -q tests/test_containers.py tests/test_monitor_asked.py tests/test_pickles.py $(ARGS)

# Do the tests see changed lines? A sample of each room; an hour, not in CI.
mutants: .venv/built .venv/extras-demo,test
	$(BIN)/python tools/mutants.py $(ARGS)

# What it survives: docs/survives.md has the figures. .ci/run does a short dose of each.

# AddressSanitizer and UBSan over the kernel suite; ThreadSanitizer over threads.
sanitize: .venv/built .venv/extras-demo,test
	$(BIN)/python tools/sanitize.py address $(ARGS)
	$(BIN)/python tools/sanitize.py thread $(ARGS)

# Random programs against a model in NumPy: half an hour of one core.
fuzz: .venv/built .venv/extras-demo,test
	$(BIN)/python tests/programs.py $(or $(PROGRAMS),100000) $(ARGS)

# Each allocation fails once.
oom: .venv/built .venv/extras-demo,test
	$(BIN)/pytest -q -n auto -m "slow or not slow" tests/test_allocation.py $(ARGS)

# Checkpoints with a wrong byte, or with a lie and the right digest: so many of each kind.
forge: .venv/built .venv/extras-demo,test
	FORGED=$(or $(FORGED),5000) $(BIN)/pytest -q -n auto -m "slow or not slow" tests/test_checkpoint_damage.py tests/test_checkpoint_forged.py $(ARGS)

# Arrays of more than 2**31 elements: one at a time, 18 GB at most.
large: .venv/built .venv/extras-demo,test,bfloat16
	$(BIN)/pytest -q -p no:xdist -m large tests/test_large.py --durations=0 $(ARGS)

# The bits on other processors, emulated; the heads of the tools say what must be installed.
arm: .venv/built
	$(BIN)/python tools/emulated.py arm64 $(ARGS)
s390x: .venv/built
	$(BIN)/python tools/emulated.py s390x $(ARGS)

# The recorded runs by another compiler.
clang: .venv/built
	CC=clang LDSHARED="clang -shared" $(BIN)/python setup.py -q build --build-base=build/clang --build-lib=build/clang/lib
	PYTHONPATH=build/clang/lib $(BIN)/python -P tests/recorded.py check

clean:
	rm -rf .venv build docs/generated docs/sg_execution_times.rst optkern.egg-info
	find optkern -name '*.so' -delete
