# Bare machine: Python 3.11 (or newer) and make. Everything else goes into .venv, from the hashed lock.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK_VENV := build/lock
PEERS := build/peers
# 3.11 and 3.12 first: for these the bundled Redis has ready wheels.
PYTHON ?= $(shell for python in python3.11 python3.12 python3 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# What is passed on: make test ARGS="-k ledger -x", make run ARGS="--until-generation 5"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install run test check bench peers bench-peers wheel-check release-check chaos docs format lock audit clean

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

install: $(STAMP) ## Create .venv with everything that is needed (a minute; nothing to do when up to date)

# A virtual environment without a working pip is one whose creation was interrupted: it is built again.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found" \
		"($$(python3 --version 2>/dev/null || echo no python3 on PATH))." \
		"Install it, or name it: make install PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV) ($$($(PYTHON) --version)) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { echo \
		"$(PYTHON) cannot create virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP) ## Run everything here: Redis, workers, beat, Flower; Ctrl-C stops it
	@$(BIN)/coordinator up $(ARGS)

test: $(STAMP) ## Run the tests, all but the chaos ones
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not chaos and not wheel" $(ARGS)

check: $(STAMP) ## Lint, format and strict type check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Measure throughput against plain Celery
	$(BIN)/python -m benchmarks $(ARGS)

# Their packages never meet the project's: versions and hashes of their own, in a folder of their own.
peers: ## Install the queues that bench-peers compares with into build/peers (the Node one if npm is there)
	@test -x $(PEERS)/venv/bin/python || $(PYTHON) -m venv $(PEERS)/venv
	$(PEERS)/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r benchmarks/peers/requirements.lock
	@mkdir -p $(PEERS)/node && cp benchmarks/peers/package.json benchmarks/peers/package-lock.json $(PEERS)/node
	@if command -v npm >/dev/null; then cd $(PEERS)/node && npm install --no-save --silent --ignore-scripts --no-audit --no-fund; \
		else echo "npm is not here: BullMQ will be reported as not installed"; fi

bench-peers: $(STAMP) peers ## Measure the same jobs on other projects' queues (half an hour)
	@mkdir -p build/bench
	$(BIN)/python -m benchmarks peers --json build/bench/peers.json --markdown build/bench/peers.md $(ARGS)

chaos: $(STAMP) ## Kill, freeze and cut off processes for some minutes, and check that nothing ran twice
	$(BIN)/python -m pytest -m chaos $(ARGS)

wheel-check: $(STAMP) ## Install the wheel outside the repository and run it there (some minutes; needs the package index)
	$(BIN)/python -m pytest -m wheel tests/test_wheel.py $(ARGS)

release-check: $(STAMP) ## Run everything there is, and print each feature with the tests that show it
	$(BIN)/python -m tests.release $(ARGS)

docs: $(STAMP) ## Write the reference pages of docs/ anew from the code
	$(BIN)/python -m docs.generate

format: $(STAMP) ## Format the code and fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# No header, no annotations, no index: a lock that names hosts or paths would hold on one network only.
lock: ## Resolve requirements.lock (development) and requirements-runtime.lock (container) again
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	@test -x $(LOCK_VENV)/bin/uv || { $(PYTHON) -m venv $(LOCK_VENV) && $(LOCK_VENV)/bin/python -m pip install --quiet uv; }
	$(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --all-extras $(ARGS) pyproject.toml -o requirements.lock
	$(LOCK_VENV)/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep=chr(10))" | \
	$(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --extra postgres --extra games --extra web \
		-c requirements.lock pyproject.toml - -o requirements-runtime.lock

# What is locked, not what is installed; the service it asks is that of the package index. Strict: an index that has no such
# service (a mirror) is an error and no clean bill.
audit: ## Look for known vulnerabilities in what the container is made of
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	@test -x $(LOCK_VENV)/bin/pip-audit || { $(PYTHON) -m venv $(LOCK_VENV) && $(LOCK_VENV)/bin/python -m pip install --quiet pip-audit; }
	$(LOCK_VENV)/bin/pip-audit --requirement requirements-runtime.lock --require-hashes --disable-pip --strict $(ARGS)

clean: ## Remove .venv, caches and build products (never the data folder)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find coordinator tasks tests -name __pycache__ -prune -exec rm -rf {} +
