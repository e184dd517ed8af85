# Every target sets up its own environment in .venv, once; Python 3.11 or newer, pip and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-faults lint bench clean

setup: $(READY)

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); echo "install Python's venv module (Debian: python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

# The whole road, on generated music; DATA=/your/folder takes your own.
demo: $(READY)
	$(BIN)/python jobs/demo.py $(if $(DATA),--output demo/own --data $(DATA),--output demo)

test: $(READY)
	$(BIN)/python -m pytest -m "not faults"

# The long fault runs too.
test-faults: $(READY)
	$(BIN)/python -m pytest tests/faults tests/pipelines/test_codec.py --timeout 900

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m apollo.bench --batch 1 --compile
	$(BIN)/python -m apollo.bench_gan
	$(BIN)/python -m pipelines.bench
	$(BIN)/python -m pipelines.bench_loader
	$(BIN)/python -m pipelines.bench_scoring

clean:
	rm -rf $(VENV) demo build *.egg-info
