# `make repro` runs the whole pipeline, `make test` the whole test suite; each makes .venv first where it is missing.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: repro report test cluster quick lint lab tensorboard lock clean

repro: .venv/installed
	@PYTHONPATH=src python -m mlimages.commands.repository
	dvc repro
	@PYTHONPATH=src python -m mlimages.commands.summary

# One page of all executed notebooks, report.html.
report: .venv/installed
	@PYTHONPATH=src python -m mlimages.commands.report

# Files of tests side by side, as much of a test is waiting for a server or a process; those of workers that train
# together, and of Ray, wait most. The longest come first.
PYTEST := pytest -p no:nbval --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) -n 3 -m "not cluster"

# Training on several workers, Ray and SLURM, for real; without their packages, Ray's and SLURM's tests are skipped.
cluster: .venv/installed
	$(PYTEST) -n 4 -m cluster

quick: lint
	$(PYTEST) -n 3 -m "not slow and not cluster"

lint: .venv/installed
	ruff check
	mypy --num-workers 2

lab: .venv/installed
	jupyter lab --config jupyter_server_config.py

tensorboard: .venv/installed
	@PYTHONPATH=src python -m mlimages.commands.tensorboard_runs

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"Python {v[0]}.{v[1]} found, 3.11 to 3.13 expected; run `make PYTHON=python3.12 ...`")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

# Pins every package from the ranges in pyproject.toml; requirements-EXTRA.txt holds what an extra adds.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate pyproject.toml
lock: .venv/installed
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --upgrade --extra test --output-file requirements.txt
	for extra in browser onnx ray; do $(COMPILE) --extra test --extra $$extra --constraint requirements.txt | \
	    grep -vxFf requirements.txt > requirements-$$extra.txt; done

# Forgets what long stages would resume from; published data stay.
clean:
	rm -rf scratch
