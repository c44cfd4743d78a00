# Everything a developer or CI does, one word each. Needs python3 (3.11+), git, make; `test` and `bench` also apt or
# installed redis-server and rabbitmq-server.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Written when the environment is complete; made again when pyproject.toml changes.
READY  := $(VENV)/.ready
# Processes that run tests. They mostly wait, so more than there are CPUs; each has brokers of its own.
JOBS   ?= 3
# Extra arguments for pytest: make test ARGS="-k redis -x"
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test again test-all check format bench docs matrices books signals chaos docs-serve clean brokers

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with the project and all development tools

demo: $(VENV)/.demo ## Run the main job on the embedded broker: worker, a few hundred tasks, remote control, clean stop
	@$(BIN)/python docs/examples/quickstart/demo.py

test: check brokers ## Everything CI runs: all checks, then all tests against private Redis and RabbitMQ servers
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations=12 --durations-min=10 $(ARGS)

again: $(READY) brokers ## The tests that failed in the last run, one after another, with the machine to themselves
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none $(ARGS)

test-all: brokers ## The tests on every Python from 3.11 to 3.13 that this machine has
	@sh scripts/test-all.sh -n $(JOBS) --dist loadfile $(ARGS)

check: $(READY) ## Lint, format, types, import walls; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin -p framework_fsnotify
	$(BIN)/mypy --platform freebsd14 -p framework_fsnotify
	$(BIN)/lint-imports

format: $(READY) ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY) brokers ## Measure against Celery, side by side: make bench ARGS=--quick
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.docs ## Build the manual into site/
	$(BIN)/python scripts/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

matrices: $(READY) brokers ## Write the tables of docs/pools.md and docs/steering.md from what workers do
	TEST_WRITE_DOCS=1 $(BIN)/python -m pytest tests/integration/test_pool_matrix.py tests/integration/test_command_matrix.py

books: $(READY) brokers ## 20,000 random tasks on every pool: ledger and outcomes agree. make books BOOKS="gevent solo"
	PYTHONPATH=tests BOOKS="$(BOOKS)" $(BIN)/python -m support.books

signals: $(READY) brokers ## 200 volleys of random signals at workers: none hangs, no task is lost. make signals SIGNALS_SEED=7
	SIGNALS_SEED="$(SIGNALS_SEED)" SIGNALS="$(SIGNALS)" PYTHONPATH=tests $(BIN)/python -m support.volleys

chaos: $(READY) brokers ## Random faults against random work: make chaos MINUTES=10 SEED=7 BROKER=redis; the books must balance
	@PYTHONPATH=tests MINUTES="$(MINUTES)" SEED="$(SEED)" BROKER="$(BROKER)" POOL="$(POOL)" $(BIN)/python -m faults

docs-serve: $(VENV)/.docs ## Show the manual at http://127.0.0.1:8000, rebuilt on change
	$(BIN)/mkdocs serve

brokers: ## Install redis-server and rabbitmq-server from Debian packages if they are missing (never as services)
	@sh scripts/install-packages.sh redis-server:redis-server rabbitmq-server:rabbitmq-server

clean: ## Remove the environment, caches and whatever was built
	rm -rf $(VENV) site dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find core plugins tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@PYTHON=$(PYTHON) sh scripts/make-venv.sh $(VENV)

# The project alone: enough to run it.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable . --group dev --group docs
	@touch $@ $(READY) $(VENV)/.demo
