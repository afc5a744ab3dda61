# Every target makes what it needs: a virtual environment with pinned dependencies, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
EXECUTE = $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=20 --durations-min=5

.PHONY: demo test test-all test-gpu notebooks notebooks-check docs lint types arrows check check-wheel check-newest clean

demo: $(VENV)/.installed  ## compress the bundled example to 0.4 of its latency
	$(BIN)/lana compress digits-resnet --data digits --budget 0.4x --out runs/demo

test: $(VENV)/.developed  ## the tests, within minutes
	$(PYTEST) -m "not slow and not gpu"

test-all: $(VENV)/.developed  ## the slow tests too
	$(PYTEST) -m "not gpu"

test-gpu: $(VENV)/.developed  ## the tests that need a CUDA device
	$(PYTEST) -m gpu

lint: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developed
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

arrows: $(VENV)/.developed  ## who may import whom
	$(BIN)/lint-imports

notebooks: $(VENV)/.developed  ## execute them, outputs stored in place
	$(EXECUTE) --inplace notebooks/*.ipynb

notebooks-check: $(VENV)/.developed  ## execute them from top to bottom, and leave the stored outputs as they are
	folder=$$(mktemp -d) && ls notebooks/*.ipynb | OMP_NUM_THREADS=1 xargs -P 2 -n 1 $(EXECUTE) --output-dir $$folder && rm -r $$folder

docs: $(VENV)/.developed  ## the documentation, in site/; a warning is an error
	$(BIN)/mkdocs build --strict --quiet

check: $(VENV)/.developed  ## lint, types, arrows, docs and tests; the last line names what failed
	.ci/check lint types arrows docs test

check-wheel:  ## the wheel, installed without extras into a new environment, runs the demo
	PYTHON=$(PYTHON) .ci/check_wheel

check-newest:  ## the newest Python that is found, with the newest of all but torch
	PYTHON=$(PYTHON) .ci/check_newest

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,vision,notebooks,docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
