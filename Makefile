# Everything runs from .venv, which is made on first use and brought up to date when a lock file changes.

.DEFAULT_GOAL := help
.PHONY: help run demo test fairness bench profile chaos fuzz mutants lint format venv lock clean

PY := .venv/bin/python

# PYTHON where it is given; else the first that is 3.11 or 3.12, since for them there is a wheel with Redis; else any newer
# one. Each candidate is run, since a name on PATH may be a shim that only fails.
FIND_PYTHON = usable() { \
		"$$1" -c "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $$2))" >/dev/null 2>&1; \
	}; \
	for each in $(PYTHON); do usable $$each 99 && { echo $$each; exit; }; done; \
	for each in python3 python3.12 python3.11; do usable $$each 12 && { echo $$each; exit; }; done; \
	for each in python3 python3.13 python3.14 python; do usable $$each 99 && { echo $$each; exit; }; done; \
	echo "Python 3.11 or newer with venv and ensurepip is needed (on Debian and Ubuntu: apt install python3-venv)" >&2; \
	exit 1

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1#\2/p' Makefile | while IFS='#' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

run: .venv-run ## start everything; Ctrl-C stops it
	@exec $(PY) supervise.py

demo: .venv-run ## fill the running system with demo users, friends, a group and some chat
	@$(PY) demo.py

test: .venv-dev ## run all tests
	$(PY) -m pytest -n 3 --dist loadfile -m "not alone"

fairness: .venv-dev ## measure whether some who misbehave slow the others down; wants a machine of its own
	$(PY) -m pytest -m alone

bench: .venv-dev ## measure costs, latencies, growth; BASE=<rev> and BESIDE=socketio measure that too (ARGS="--quick", "--list")
	$(PY) -m benchmarks $(if $(BASE),--base $(BASE)) $(if $(BESIDE),--beside $(BESIDE)) $(ARGS)

profile: .venv-dev ## sample where the time goes, part by part; BASE=<rev> samples that too (ARGS="--only open_300 --publish")
	$(PY) -m benchmarks.profile $(if $(BASE),--base $(BASE)) $(ARGS)

# Only what stands on make's command line: a run must never meet the database that the environment names. Exported, so that
# a password in a URL does not show in the list of processes.
chaos: export CHAOS_DATABASE_URL := $(if $(filter command%,$(origin DATABASE_URL)),$(DATABASE_URL))
chaos: export CHAOS_BROKER_URL := $(if $(filter command%,$(origin CELERY_BROKER_URL)),$(CELERY_BROKER_URL))
chaos: export CHAOS_REDIS := $(if $(filter command%,$(origin REDIS)),$(REDIS))
chaos: .venv-dev ## load with random faults, then a verdict (DURATION=600 SEED= RATE=200 FAULT_EVERY=5)
	$(PY) -m chaos $(if $(DURATION),--duration $(DURATION)) $(if $(SEED),--seed $(SEED)) $(if $(RATE),--rate $(RATE)) \
		$(if $(FAULT_EVERY),--fault-every $(FAULT_EVERY)) $(ARGS)

fuzz: .venv-dev ## call every route with 10,000 made-up requests, as everybody (ARGS="--examples 100")
	$(PY) -m tests.api_fuzz $(ARGS)

mutants: .venv-dev ## break the core on purpose, one way at a time, and show which test notices (ARGS="--list")
	$(PY) -m tests.mutants $(ARGS)

lint: .venv-dev ## check format, style and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: .venv-dev ## format the code and apply what ruff can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

venv: .venv-dev ## create or update .venv with all that development needs

lock: ## pin the newest allowed versions anew (needs uv; add ARGS=--upgrade to move to newer ones)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header $(ARGS) requirements.in -o requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header $(ARGS) -c requirements.txt requirements-dev.in -o requirements-dev.txt

clean: ## remove .venv and caches; data in var/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: .venv-run .venv-dev
.venv-run:
	@python=$$($(FIND_PYTHON)) && $$python .ci/install.py requirements.txt
.venv-dev:
	@python=$$($(FIND_PYTHON)) && $$python .ci/install.py requirements-dev.txt
