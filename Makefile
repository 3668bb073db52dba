# `make` alone prints what there is to make.

# The Python that environments are made with, and where they are.
PYTHON ?= python3
VENV ?= .venv
# `make run`: where nodes reach the relay, as HOST:PORT (for the ticket), and where it listens, as IP:PORT.
ADDRESS ?=
LADDR ?=
export ADDRESS LADDR
# Where there is no network, say so soon.
PIP_RETRIES ?= 2
export PIP_RETRIES
# `make test`: 1 for the slow tests as well; and any arguments for pytest.
SLOW ?=
PYTEST_ARGUMENTS ?=
# `make test-pythons`: which, where the machine has them.
PYTHONS ?= 3.9 3.11 3.13
# `make bench`: any arguments, as in BENCH="--quick --check" or BENCH="handshakes".
BENCH ?=

PACKAGES_OF_DEBIAN := python3-cryptography python3-docopt
MARKED := $(if $(SLOW),,-m "not slow")
WHOLE_BRANCHES := offset_common/wire/*,offset_common/channel/*
CHECKED := setup.py strelay.py stmgr.py offset_common tests tools \
	$(patsubst %/,%,$(sort $(dir $(wildcard bench/*.py examples/*.py))))

# `make soak`: how long, from which seed (a new one if empty), and the relay's worker processes.
SECONDS ?= 600
SEED ?=
WORKERS ?= 1

.PHONY: help run test check format test-minimal test-pythons bench plot clean soak fuzz
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | column -t -s @ 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1  \2/p' Makefile

run: ## start the relay, its identity and ticket made if they are missing; ADDRESS=HOST:PORT is where nodes reach it
	@mkdir -p $(VENV); \
	test -e $(VENV)/run.stamp || echo "making the relay's own environment in $(VENV) (a minute, once)"; \
	if $(MAKE) --no-print-directory $(VENV)/run.stamp >$(VENV)/log 2>&1; then \
		python=$(VENV)/bin/python; \
	elif $(PYTHON) -c 'import cryptography, docopt' 2>/dev/null; then \
		echo "no environment could be made ($(VENV)/log says why): the packages of $(PYTHON) do"; \
		python=$(PYTHON); \
	else \
		cat $(VENV)/log; \
		echo "no environment could be made, and $(PYTHON) has not the two packages it needs."; \
		echo "On Debian or Ubuntu: apt-get install $(PACKAGES_OF_DEBIAN)"; \
		exit 1; \
	fi; \
	exec $$python tools/run.py

test: $(VENV)/dev.stamp ## the tests, and every branch of wire/ and channel/ covered; SLOW=1 for the slow ones too
	$(VENV)/bin/python -m pytest --ignore=tests/attack $(MARKED) --cov --cov-branch --cov-report= $(PYTEST_ARGUMENTS)
	$(VENV)/bin/python -m coverage report --include='$(WHOLE_BRANCHES)' --skip-covered --show-missing --fail-under=100

check: $(VENV)/dev.stamp ## lint, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy $(CHECKED)

format: $(VENV)/dev.stamp ## write the format that check wants
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test-minimal: ## a relay and a tunnel with Debian's own python3 and its packages only
	env -i PATH=/usr/bin:/bin PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/minimal_tunnel.py

test-pythons: ## the fast tests on each of PYTHONS that the machine has
	@for version in $(PYTHONS); do sh tools/test-python $$version $(PYTEST_ARGUMENTS) || exit 1; done

bench: $(VENV)/dev.stamp ## the benchmarks, written to bench.json; or BENCH="--quick", BENCH="handshakes"
	$(VENV)/bin/python -m bench $(or $(BENCH),--json bench.json)

plot: $(VENV)/dev.stamp ## draw docs/performance.svg from bench.json
	$(VENV)/bin/python -m pip install --quiet --quiet --editable '.[plots]'
	$(VENV)/bin/python -m bench.plot bench.json docs/performance.svg

clean: ## remove environments and everything built; relay/ with its identity stays
	rm -rf $(VENV) .venv-* build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache fuzz-corpus bench.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.stamp: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --quiet 'pip>=21.3'
	$(VENV)/bin/python -m pip install --quiet --quiet --editable '.[qr]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(VENV)/bin/python -m pip install --quiet --quiet --editable '.[dev]'
	touch $@

# `make fuzz`: any arguments, as in FUZZ="--seconds 30 messages classify".
FUZZ ?=

fuzz: $(VENV)/dev.stamp ## ten minutes of strange input to all that reads bytes; FUZZ="--seconds 30" is what it is given
	@$(VENV)/bin/python -c 'import atheris' 2>/dev/null \
		|| $(VENV)/bin/python -m pip install --quiet --only-binary :all: atheris >$(VENV)/log 2>&1 || true
	@$(VENV)/bin/python -m tests.fuzz $(FUZZ)

soak: $(VENV)/dev.stamp ## 200 nodes use a relay for SECONDS (600), every byte is checked; SEED=, WORKERS=
	$(VENV)/bin/python -m tests.soak --seconds $(SECONDS) --workers $(WORKERS) $(if $(SEED),--seed $(SEED))

# `make attack`: any arguments for pytest, as in ATTACK="-k silence"; what takes longest can take longer,
# as in ATTACK_PROXY=600.
ATTACK ?= tests/attack

.PHONY: attack

attack: $(VENV)/dev.stamp ## what a stranger may do to a relay, done to it; ATTACK="-k silence" is what pytest is given
	$(VENV)/bin/python -m pytest $(if $(findstring tests/attack,$(ATTACK)),,tests/attack) $(ATTACK)
