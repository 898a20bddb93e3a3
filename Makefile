# `make help` lists the targets. Files are made only when what they are made from has changed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
# `make calibrate evaluate report` is one thing after the other, whatever MAKEFLAGS says.
.NOTPARALLEL:

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
BIN := .venv/bin
DATA ?= data
CROPS ?= crops
RUN ?= runs/b4
ARGS ?=
MODEL_VERSION := 1.0

## serve: set up, archive, start TorchServe and the page; Ctrl-C stops both
.PHONY: serve
serve: model_store/deepfake.mar
	@$(BIN)/python -m deploy.serve $(ARGS)

## stop: let what `make serve` started finish its requests, and stop it
.PHONY: stop
stop:
	@$(PYTHON) deploy/stop.py $(ARGS)

## roll: archive, and move what runs to the new version without losing a request
.PHONY: roll
roll: model_store/deepfake.mar
	@$(BIN)/python -m deploy.roll $(ARGS)

## rollback: move what runs back to the version before, without losing a request
.PHONY: rollback
rollback: .venv/ready
	@$(BIN)/python -m deploy.roll --back $(ARGS)

# A process for each room: importing PyTorch takes longer than most files, and so does starting the
# service. Status 5: ARGS left no test of it. In the first two a core takes a file at a time; where
# the service runs tests would only wait for each other. Tests run make too, which would take ARGS for
# its own.
TESTS := tests/unit tests/integration tests/uploads tests/deploy tests/e2e
SPREAD := -n logical --maxprocesses 4 --dist loadfile
## test: set up and pass every test, against a real TorchServe
.PHONY: test
test: model_store/deepfake.mar
	@unset MAKEFLAGS MFLAGS ARGS; trap 'exit 130' INT; failed=''; for each in $(TESTS); do \
		case $$each in tests/unit|tests/integration) spread='$(SPREAD)' ;; *) spread='' ;; esac; \
		status=0; echo $$each; $(BIN)/python -m pytest $$each $$spread $(ARGS) || status=$$?; \
		case $$status in 0|5) ;; *) failed="$$failed $$each" ;; esac; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

## test-faults: what the service does when something breaks under load; takes some 15 minutes
.PHONY: test-faults
test-faults: model_store/deepfake.mar
	$(BIN)/python -m pytest tests/faults -s $(ARGS)

## fuzz: damaged photos and requests, FUZZ (default 20) times as many as in `make test`, new ones
.PHONY: fuzz
fuzz: export FUZZ ?= 20
fuzz: model_store/deepfake.mar
	$(BIN)/python -m pytest tests/integration/test_fuzz.py $(ARGS)
	$(BIN)/python -m pytest tests/e2e/test_fuzz.py $(ARGS)

## soak: mixed load for ten minutes (ARGS="--seconds 60"), and how memory and latency developed
.PHONY: soak
soak: model_store/deepfake.mar
	$(BIN)/python -m benchmarks.soak $(ARGS)

## check: ruff and mypy
.PHONY: check
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## setup: make .venv from the pinned dependencies
.PHONY: setup
setup: .venv/ready

# The packages take some minutes to download the first time (PyTorch alone has gigabytes); a
# CPU-only PyTorch from another index: make setup PIP_EXTRA_INDEX_URL=...
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
		"error: Python 3.11 or 3.12 is needed, and this is %d.%d: make PYTHON=..." \
		% sys.version_info[:2])'
	@echo 'making .venv from the pinned packages; this takes minutes the first time ...'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

## crop: cut the faces out of DATA (default data/) into CROPS (default crops/)
.PHONY: crop
crop: .venv/ready
	$(BIN)/python -m training.crop --data "$(DATA)" --out "$(CROPS)" $(ARGS)

## train: train on CROPS into RUN (default runs/b4); options in ARGS="..."
.PHONY: train
train: .venv/ready
	$(BIN)/python -m training.train --data "$(CROPS)" --out "$(RUN)" $(ARGS)

## calibrate: set temperature, thresholds and uncertain band of saved_model.pth on validation
.PHONY: calibrate
calibrate: .venv/ready
	$(BIN)/python -m training.calibrate --data "$(DATA)" $(ARGS)

## evaluate: measure saved_model.pth on the test split of DATA, through the serving pipeline
.PHONY: evaluate
evaluate: .venv/ready
	$(BIN)/python -m training.evaluate --data "$(DATA)" $(ARGS)

## robustness: the same under compression, resizing, blur, noise and other everyday editing
.PHONY: robustness
robustness: .venv/ready
	$(BIN)/python -m training.robustness --data "$(DATA)" $(ARGS)

## failures: pictures of what saved_model.pth gets wrong, of the photos in tests/fixtures
.PHONY: failures
failures: .venv/ready
	$(BIN)/python -m training.failures $(ARGS)

## audit: look for shortcuts in DATA: duplicates across splits, telling file sizes and colours
.PHONY: audit
audit: .venv/ready
	$(BIN)/python -m training.audit --data "$(DATA)" $(ARGS)

## report: fill the tables of MODEL_CARD.md from what was measured
.PHONY: report
report: .venv/ready
	$(BIN)/python -m training.card $(addprefix --beside ,$(wildcard saved_model_small.pth)) $(ARGS)

## bench: how fast it all is, side by side with others: benchmarks/RESULTS.md; ten quiet minutes
.PHONY: bench
bench: .venv/bench model_store/deepfake.mar
	$(BIN)/python -m benchmarks.recall
	$(BIN)/python -m benchmarks.run $(ARGS)

.venv/bench: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

# The digest of the checkpoint is written down in the archive; a worker loads no other.
## archive: build model_store/deepfake.mar from saved_model.pth
.PHONY: archive
archive: model_store/deepfake.mar

SOURCES := $(wildcard src/deepfake/*.py)
INPUTS := saved_model.pth handler/deepfake_handler.py handler/model-config.yaml $(SOURCES)

# What the archive is made of. Times would not tell that a file is gone, or that an older one was put
# in its place.
build/inputs: $(INPUTS) FORCE
	@mkdir -p build
	@{ echo $(MODEL_VERSION); sha256sum $(INPUTS); } > $@.part
	@cmp -s $@.part $@ || cp $@.part $@
	@rm $@.part

FORCE:

model_store/deepfake.mar: build/inputs | .venv/ready
	rm -rf build/archive
	mkdir -p build/archive/src/deepfake build/archive/tmp model_store
	cp $(SOURCES) build/archive/src/deepfake
	cp handler/model-config.yaml build/archive
	printf 'checkpointSha256: "%s"\n' $$(sha256sum < saved_model.pth | cut -c -64) \
		>> build/archive/model-config.yaml
	TMPDIR=build/archive/tmp $(BIN)/torch-model-archiver --model-name deepfake \
		--version $(MODEL_VERSION) --serialized-file saved_model.pth \
		--handler handler/deepfake_handler.py --config-file build/archive/model-config.yaml \
		--extra-files build/archive/src --export-path build/archive --force
	mv build/archive/deepfake.mar $@

## frontend: start the page alone, for a TorchServe that already runs
.PHONY: frontend
frontend: .venv/ready
	$(BIN)/gunicorn --config python:frontend.server --bind 127.0.0.1:5000 'frontend.app:create_app()'

## diagnostic: is everything here that is needed? each line OK, or what to do
.PHONY: diagnostic
diagnostic: .venv/ready
	@$(BIN)/python -m training.diagnostic $(ARGS)

# Asks PyPI about every pin; SECURITY.md argues each exception that stands here as --ignore-vuln ID.
EXCEPTIONS :=
## security-audit: are there known weaknesses in the pinned packages? needs PyPI's advisories
.PHONY: security-audit
security-audit: .venv/ready
	$(BIN)/pip-audit --strict --progress-spinner off --no-deps --disable-pip \
		--requirement constraints.txt $(EXCEPTIONS) $(ARGS)

## clean: remove what was built, but not data, crops and runs
.PHONY: clean
clean:
	rm -rf .venv build logs model_store/*.mar* model_store/previous .pytest_cache .mypy_cache .ruff_cache

## help: this list
.PHONY: help
help:
	@sed -n 's/^## /  make /p' $(MAKEFILE_LIST)
