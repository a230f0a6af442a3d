# Each target works alone on a bare machine: it makes .venv and installs what is missing, and is quick the second time.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3.10 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv; raise SystemExit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

TYPED := -p neuralcodec.codecs -p neuralcodec.entropy -p neuralcodec.datasets -p neuralcodec.eval -m neuralcodec.cli -m neuralcodec.convert -m neuralcodec.pillow -m neuralcodec.train -p neuralcodec.training

.PHONY: help venv demo test lint bench

help:
	@echo "make demo   encode and decode a photograph, draw the Kodak curve"
	@echo "make test   run the test suite"
	@echo "make lint   ruff and mypy"
	@echo "make bench  the benchmarks behind the README's numbers"

venv: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer, with venv, is needed; set PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --editable '.[measure]' 2>/dev/null || echo "PESQ and ViSQOL are built from source, which failed here: their tests will be skipped" >&2
	@mkdir -p .typing && ln -sfn .. .typing/neuralcodec
	@touch $@

demo: venv
	@$(BIN)/python benchmarks/demo.py

test: venv
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 4 --dist worksteal --durations=10

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd .typing && ../$(BIN)/mypy --config-file ../pyproject.toml $(TYPED)

bench: venv
	$(BIN)/python benchmarks/coder.py
	$(BIN)/python benchmarks/hyperprior.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/large.py
	$(BIN)/python benchmarks/audio.py
