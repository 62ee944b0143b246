# Two commands, each sufficient on a fresh clone of a machine with Python ≥ 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast test-oldest test-launchers check docs clean

demo: .venv/installed
	$(BIN)/python -m cmpolicy.train env=hopper-medium dataset.source=sample steps=30000 eval.every=5000

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

test-fast: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-oldest:
	test -d .venv-oldest || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --constraint constraints-oldest.txt \
		--editable '.[export,images,robotics,toys,video]' 'pytest>=8.3' 'pytest-xdist>=3.6'
	.venv-oldest/bin/python -m pytest -n 2 -m "not slow"

test-launchers: .venv-launchers/installed  # joblib, submitit, Ray, Weights & Biases, Optuna
	.venv-launchers/bin/python -m pytest -m launchers tests/cli tests/examples
	.venv-launchers/bin/python -m pytest tests/training/test_loggers.py

check: .venv/installed-dev
	$(BIN)/pre-commit run --all-files

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo build/site/index.html

.venv/installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/installed $@

.venv/installed-docs: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch .venv/installed $@

.venv-launchers/installed: pyproject.toml
	test -d .venv-launchers || $(PYTHON) -m venv .venv-launchers
	.venv-launchers/bin/pip install --quiet --editable '.[dev,launchers,ray,wandb]' optuna
	touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
