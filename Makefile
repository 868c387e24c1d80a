# `make` alone lists the verbs. Every verb installs what it needs into .venv first.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
SERVE ?= 1
# On a machine with an NVIDIA GPU the runtime that uses it, and TensorRT proper.
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo yes)
RUNTIME ?= $(if $(GPU),gpu,cpu)
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install -q
# Bad requests that `make fuzz` sends; some of them turn out to be right.
FUZZ ?= 110000
RUNS := runs/spirals-mlp runs/digits-cnn runs/adding-lstm runs/recall-transformer

.PHONY: help demo models serve test test-slow fuzz drills gpu-check lint format clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: models  ## train, export, prove and publish four models, then serve them; SERVE=0 stops before serving
ifneq ($(SERVE),0)
	@$(PY) -m service --repository models --host $(HOST) --port $(PORT) --show-calls
endif

models: .venv/.run  ## train and publish the four demo models; keeps what is there and still whole
	@$(PY) -m training mlp --data spirals --out runs/spirals-mlp --reuse --resume
	@$(PY) -m training cnn --data digits --out runs/digits-cnn --reuse --resume
	@$(PY) -m training lstm --data adding --out runs/adding-lstm --reuse --resume
	@$(PY) -m training transformer --data recall --out runs/recall-transformer --reuse --resume
	@$(PY) -m export $(RUNS) --repository models --reuse

serve: .venv/.run  ## serve what is in models/ on HOST:PORT (127.0.0.1:8000)
	@$(PY) -m service --repository models --host $(HOST) --port $(PORT)

test: .venv/.test  ## run the tests
	@$(PY) -m pytest -n auto --dist loadfile

test-slow: .venv/.test  ## run the tests that take minutes: presets to their floors, every model option through its export
	@$(PY) -m pytest -m slow -n auto

fuzz: .venv/.fuzz  ## send 100,000 bad requests to a real server, and what schemathesis makes of its OpenAPI document
	@QUARTET_FUZZ_REQUESTS=$(FUZZ) $(PY) -m pytest -s -m "slow or not slow" tests/service/test_fuzz.py

drills: models .venv/.test  ## fault drills on real servers under load, some 10 minutes; HAProxy is to be installed
	@$(PY) -m loadtests.drills all --repository models

gpu-check: models .venv/.test  ## on a machine with a GPU: its tests, exports and speeds, written to gpu-check.txt
	@$(PY) -c 'import sys; from runtime import cuda; sys.exit(not cuda.available() and "no NVIDIA GPU is visible: check nvidia-smi")'
	@{ nvidia-smi && $(PY) -m pytest -m gpu \
	&& $(PY) -m export $(RUNS) --repository models --reuse \
	&& $(PY) -m export.benchmark --repository models --model $(notdir $(RUNS)); echo "exit status $$?"; } 2>&1 | tee gpu-check.txt
	@tail -n 1 gpu-check.txt | grep -q ' 0$$'

lint: .venv/.test .venv/.lint  ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m mypy --strict deploy/helm/generate.py deploy/grafana/dashboard.py

format: .venv/.lint  ## let ruff put the code in order
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean:  ## remove the environment, the runs and the published models
	rm -rf .venv runs models

.venv/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Quartet needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "installing into .venv (PyTorch is large; this takes minutes on a slow line)"
	@$(PYTHON) -m venv .venv
	@$(PIP) -e '.[serve,$(RUNTIME),export,client]'
ifdef GPU
	@$(PIP) -e '.[tensorrt]' || echo "TensorRT cannot be installed here: it comes from NVIDIA's package index"
endif
	@$(PIP) -e '.[tensorrt-rtx]' || echo "TensorRT-RTX cannot be installed here: no engines will be built"
	@touch $@

.venv/.test: .venv/.run
	@$(PIP) -e '.[test]'
	@touch $@

.venv/.fuzz: .venv/.test
	@$(PIP) -e '.[fuzz]'
	@touch $@

.venv/.lint: .venv/.run
	@$(PIP) -e '.[lint]'
	@touch $@
