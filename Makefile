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
# A load test: of a server that runs (none: one is started on models/), by how many users, in which shape, for how long.
LOADTEST_HOST ?=
LOADTEST_USERS ?= 20
LOADTEST_SHAPE ?= soak
LOADTEST_TIME ?= 120s
LOADTEST_SLO ?= loadtests/slo.toml
LOADTEST_OPTIONS ?= $(if $(LOADTEST_HOST),,--repository models)
LOCUST := $(PY) -m locust -f loadtests/locustfile.py --headless --only-summary -u $(LOADTEST_USERS) --shape $(LOADTEST_SHAPE) \
	-t $(LOADTEST_TIME) --slo $(LOADTEST_SLO) --html build/loadtest/report.html --csv build/loadtest/report --csv-full-history
# Whom `make compare` measures, in what, and how.
PEERS ?= all
CASES ?= all
OPTIONS ?=
RUNS := runs/spirals-mlp runs/digits-cnn runs/adding-lstm runs/recall-transformer
# Images: the engine's command, what goes to its build, the target of deploy/docker/Dockerfile, and the name before the tag.
DOCKER ?= docker
BUILD_OPTIONS ?=
TARGET ?= cpu
IMAGE ?= quartet
CURRENT := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# Runs what is compiled instead of what lies here.
COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=build/compiled
LOCK := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock'
LOCKED := deploy/docker/requirements
# What all images that serve hold; the one for CPUs is to stay small, and leaves out `capture`.
SERVED := --extra serve --extra grpc --extra otel --extra remote --extra sign
AUDITED := cpu gpu gpu-tensorrt

.PHONY: help demo models serve test test-slow test-compiled compiled fuzz drills loadtest mlperf compare gpu-check lint format clean \
	screenshots test-deploy image smoke lock audit proto release version

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

test-compiled: compiled .venv/.test  ## the tests of the service, with its hot path compiled as in the images
	@$(COMPILED) $(PY) -m pytest --import-mode=append -n auto --dist loadfile tests/service tests/runtime

compiled: .venv/.compile  ## the code as the images hold it, its hot path compiled to C, in build/compiled/; gcc is to be installed
	@rm -rf build/compiled build/lib.* build/bdist.* build/temp.*
	@QUARTET_COMPILE=1 $(PIP) --no-deps --no-build-isolation --target build/compiled .

test-slow: .venv/.test  ## run the tests that take minutes: presets to their floors, every model option through its export
	@$(PY) -m pytest -m slow -n auto

fuzz: .venv/.fuzz  ## send 100,000 bad requests to a real server, and what schemathesis makes of its OpenAPI document
	@QUARTET_FUZZ_REQUESTS=$(FUZZ) $(PY) -m pytest -s -m "slow or not slow" tests/service/test_fuzz.py tests/service/rpc/test_fuzz.py

drills: models .venv/.test  ## fault drills on real servers under load, some 10 minutes; HAProxy is to be installed
	@$(PY) -m loadtests.drills all --repository models

loadtest: $(if $(LOADTEST_HOST),,models) .venv/.load  ## two minutes of users on every interface, held to LOADTEST_SLO; reports in build/loadtest/
	@mkdir -p build/loadtest
ifeq ($(LOADTEST_HOST),)
	@$(PY) -m loadtests.with_server models -- $(LOCUST) --host {url} $(LOADTEST_OPTIONS)
else
	@$(LOCUST) --host $(LOADTEST_HOST) $(LOADTEST_OPTIONS)
endif

mlperf: models .venv/.load  ## MLPerf's scenarios by its own LoadGen, latency against offered load, overload; written to build/mlperf/
	@$(PY) -m loadtests.mlperf --repository models --out build/mlperf $(MLPERF_OPTIONS)

compare: .venv/.test  ## beside other servers, an hour: PEERS=naive,litserve CASES=mlp OPTIONS="--rounds 3"; wrk is to be installed
	@$(PY) -m loadtests.compare --peers $(PEERS) --cases $(CASES) $(OPTIONS)

gpu-check: models .venv/.test  ## on a machine with a GPU: its tests, exports and speeds, written to gpu-check.txt
	@$(PY) -c 'import sys; from runtime import cuda; sys.exit(not cuda.available() and "no NVIDIA GPU is visible: check nvidia-smi")'
	@{ nvidia-smi && $(PY) -m pytest -m gpu \
	&& $(PY) -m export $(RUNS) --repository models --reuse \
	&& $(PY) -m export.benchmark --repository models --model $(notdir $(RUNS)) --runs runs; echo "exit status $$?"; } 2>&1 | tee gpu-check.txt
	@tail -n 1 gpu-check.txt | grep -q ' 0$$'

screenshots: models .venv/.test  ## pictures of every view of the page at /, wide and narrow, light and dark, in build/screenshots/
	@$(PY) -m tests.service.playground.screenshots --repository models

test-deploy: .venv/.test  ## the tests of deploy/ alone, the slow ones too
	@$(PY) -m pytest -n auto -m "slow or not slow" tests/deploy

image:  ## build an image, TARGET=cpu, gpu, gpu-tensorrt, trainer or loadtest, as IMAGE:version-target
	@DOCKER_BUILDKIT=1 $(DOCKER) build $(BUILD_OPTIONS) --file deploy/docker/Dockerfile --target $(TARGET) \
		--build-arg VERSION=$(CURRENT) --build-arg REVISION=$$(git rev-parse HEAD) \
		--tag $(IMAGE):$(CURRENT)-$(TARGET) .

smoke: models .venv/.test  ## build the cpu image and try it in real containers; skipped where no Docker engine runs
	@DOCKER='$(DOCKER)' BUILD_OPTIONS='$(BUILD_OPTIONS)' PYTHON=$(PY) deploy/smoke.sh models

lock: .venv/.release  ## write what the images install, by hash, to deploy/docker/requirements/; LOCK_OPTIONS=--upgrade for newer ones
	@$(LOCK) $(LOCK_OPTIONS) pyproject.toml $(SERVED) --extra cpu -o $(LOCKED)/cpu.txt
	@$(LOCK) $(LOCK_OPTIONS) pyproject.toml $(SERVED) --extra capture --extra gpu -o $(LOCKED)/gpu.txt
	@$(LOCK) $(LOCK_OPTIONS) pyproject.toml $(SERVED) --extra capture --extra gpu --extra tensorrt -o $(LOCKED)/gpu-tensorrt.txt
	@$(LOCK) $(LOCK_OPTIONS) pyproject.toml --extra export --extra gpu --extra remote --extra sign -o $(LOCKED)/trainer.txt
	@$(LOCK) $(LOCK_OPTIONS) pyproject.toml --extra load -o $(LOCKED)/loadtest.txt
	@$(LOCK) $(LOCK_OPTIONS) $(LOCKED)/build.in -o $(LOCKED)/build.txt

audit: .venv/.audit  ## SBOMs (CycloneDX) of what the serving images install, in build/sbom/, and what OSV knows against it; asks api.osv.dev
	@mkdir -p build/sbom
	@for image in $(AUDITED); do \
		.venv/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON \
			-o build/sbom/$$image.cdx.json $(LOCKED)/$$image.txt 2>build/sbom/log || { cat build/sbom/log >&2; exit 1; }; \
		echo "build/sbom/$$image.cdx.json: what is in the image"; \
	done
	@.venv/bin/pip-audit --vulnerability-service osv --disable-pip --no-deps --progress-spinner off \
		$(foreach image,$(AUDITED),-r $(LOCKED)/$(image).txt) 2>build/sbom/log \
		|| { tail -n 1 build/sbom/log; echo 'audit: not passed: see above, and build/sbom/log' >&2; exit 1; }
	@tail -n 1 build/sbom/log

proto: .venv/.test  ## write what service/rpc/messages.py reads, from service/rpc/inference.proto
	@$(PY) -m grpc_tools.protoc -I service/rpc --descriptor_set_out=service/rpc/inference.binpb --pyi_out=service/rpc inference.proto
	@mv service/rpc/inference_pb2.pyi service/rpc/messages.pyi

release: .venv/.release  ## VERSION=x.y.z: write it into code, chart and compose file, commit and tag; pushing the tag publishes
	@test -n '$(VERSION)' || { echo 'say which: make release VERSION=x.y.z' >&2; exit 2; }
	@.venv/bin/bump-my-version bump --new-version '$(VERSION)'

version:  ## print the version
	@echo $(CURRENT)

lint: .venv/.test .venv/.lint  ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m mypy --strict deploy/helm/generate.py deploy/grafana/dashboard.py

format: .venv/.lint  ## let ruff put the code in order
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean:  ## remove the environment, the runs, the published models and the reports
	rm -rf .venv runs models build

.venv/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Quartet needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "installing into .venv (PyTorch is large; this takes minutes on a slow line)"
	@$(PYTHON) -m venv .venv
	@$(PIP) -e '.[serve,$(RUNTIME),export,client,tritonclient]'
ifdef GPU
	@$(PIP) -e '.[tensorrt]' || echo "TensorRT cannot be installed here: it comes from NVIDIA's package index"
endif
	@$(PIP) -e '.[tensorrt-rtx]' || echo "TensorRT-RTX cannot be installed here: no engines will be built"
	@touch $@

.venv/.test: .venv/.run
	@$(PIP) -e '.[test]'
	@touch $@

.venv/.compile: .venv/.run
	@$(PIP) -e '.[compile]'
	@touch $@

.venv/.fuzz: .venv/.test
	@$(PIP) -e '.[fuzz]'
	@touch $@

.venv/.load: .venv/.run
	@$(PIP) -e '.[load]'
	@touch $@

.venv/.release: pyproject.toml
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(PIP) -e '.[release]'
	@touch $@

.venv/.audit: pyproject.toml
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(PIP) -e '.[audit]'
	@touch $@

.venv/.lint: .venv/.run
	@$(PIP) -e '.[lint]'
	@touch $@
