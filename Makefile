# Every target sets up its own environment in .venv, once; Python 3.11 or newer, pip and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-faults fuzz lint docs audit bench hosts clean

setup: $(READY)

$(READY): requirements.txt requirements-pipeline.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); echo "install Python's venv module (Debian: python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

# The whole pipeline, on generated music; DATA=/your/folder takes your own.
demo: $(READY)
	$(BIN)/python jobs/demo.py $(if $(DATA),--output demo/own --data $(DATA),--output demo)

# Two to four processes by the cores, each with a Ray of its own. A file stays in one process, which keeps what its tests
# share; files with Ray come first, so that the short ones fill the end.
test: $(READY)
	$(BIN)/python -m pytest -m "not faults" --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 30

# The long fault runs too.
test-faults: $(READY)
	$(BIN)/python -m pytest tests/faults tests/pipelines/audio/test_codec.py tests/pipelines/runtime/test_observed_runs.py tests/pipelines/cluster/test_placement_run.py \
		tests/pipelines/audio/test_visqol.py tests/pipelines/preprocess/test_job.py --timeout 900

# An hour of files with mutated headers, tags and chunks; a failure names its seed, and shows the shortest such change.
fuzz: $(READY)
	APOLLO_FUZZ_SECONDS=3600 $(BIN)/python -m pytest tests/faults/test_fuzz.py --timeout 7200

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/site; every link and every name of the API reference must be found.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Known vulnerabilities of all that is pinned; needs the network. What could not be asked is a failure.
audit: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-audit.txt
	$(BIN)/python -m pip check
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r requirements-audit.txt

# Three hosts in namespaces of this machine, as root: cables come off, a host dies, another joins.
hosts: $(READY)
	rm -rf build/hosts
	$(BIN)/python tests/support/host_faults.py build/hosts

bench: $(READY)
	$(BIN)/python -m benchmarks.compact
	$(BIN)/python -m benchmarks.portable
	$(BIN)/python -m benchmarks.forward --batch 1 --compile
	$(BIN)/python -m benchmarks.gan_step
	$(BIN)/python -m benchmarks.loader
	$(BIN)/python -m benchmarks.scoring
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.rates

clean:
	rm -rf $(VENV) demo build *.egg-info
