# `make` without a target lists the targets.

# The Python that creates environments, and the directory of the main one.
PYTHON ?= python3
VENV ?= .venv
# `make run`: the address at which nodes reach the relay, as HOST:PORT, and the one it listens on, as IP:PORT.
ADDRESS ?=
LADDR ?=
export ADDRESS LADDR
# Fail soon without a network.
PIP_RETRIES ?= 2
export PIP_RETRIES
# A user's configuration of pip may have `user = true`, which pip refuses in an environment.
export PIP_USER := 0
# Fails with one line if a Python is too old.
check_python = PYTHONPATH=. $(1) -c 'import sys; from offset_common.requirements import python_problem; sys.exit(python_problem() or None)'
# An environment stops working when its Python is upgraded to another version, or the clone is moved. An unfinished
# one may have a Python that is too old.
BROKEN := $(shell { if test -e $(VENV)/run.stamp; then $(VENV)/bin/strelay --version; \
	elif test -e $(VENV)/bin; then $(call check_python,$(VENV)/bin/python); fi; } >/dev/null 2>&1 || echo broken)
# `make test`: SLOW=1 runs the slow tests as well; PYTEST_ARGUMENTS are passed to pytest.
SLOW ?=
PYTEST_ARGUMENTS ?=
# `make test`: processes that run tests at the same time; many tests wait, so there may be more than cores.
JOBS ?= auto
PARALLEL := -n $(JOBS) --dist loadfile --no-loadscope-reorder
# `make test-pythons`: the versions to test, as far as they are installed.
PYTHONS ?= 3.9 3.11 3.13
# `make bench`: arguments, for example BENCH="--quick --check" or BENCH="handshakes".
BENCH ?=

PACKAGES_OF_DEBIAN := python3-cryptography python3-docopt
MARKED := $(if $(SLOW),,-m "not slow")
CHECKED := setup.py strelay.py stmgr.py stforward.py offset_common tests tools \
	$(patsubst %/,%,$(sort $(dir $(wildcard bench/*.py examples/*.py))))

WRITTEN := $(wildcard *.md) docs *.py offset_common examples tools bench

# `make soak`: the duration in seconds, the random seed (a new one if empty), and the relay's worker processes.
SECONDS ?= 600
SEED ?=
WORKERS ?= 1

.PHONY: help run test check format docs illustrated test-minimal test-pythons bench publish clean soak fuzz attack deb test-deb image test-image broken
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | column -t -s @ 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1  \2/p' Makefile

run: ## run a relay, and create its identity and ticket if they are missing; ADDRESS=HOST:PORT is where nodes reach it
	@$(call check_python,$(PYTHON))
	@$(PYTHON) tools/check_addresses.py
	@mkdir -p $(VENV); \
	test -e $(VENV)/run.stamp -a -z "$(BROKEN)" || echo "creating an environment in $(VENV) (takes a minute, only once)"; \
	if $(MAKE) --no-print-directory $(VENV)/run.stamp >$(VENV)/log 2>&1; then \
		python=$(VENV)/bin/python; \
	elif $(PYTHON) -c 'import cryptography, docopt' 2>/dev/null; then \
		echo "cannot create an environment (see $(VENV)/log); using the packages of $(PYTHON)"; \
		python=$(PYTHON); \
	else \
		cat $(VENV)/log; \
		echo "without an environment, $(PYTHON) needs cryptography and docopt"; \
		echo "on Debian or Ubuntu: apt-get install $(PACKAGES_OF_DEBIAN)"; \
		exit 1; \
	fi; \
	exec $$python tools/run.py

test: $(VENV)/dev.stamp ## run the tests; every branch of wire/ and channel/ must be covered; SLOW=1 runs the slow ones too
	$(VENV)/bin/python -m pytest --ignore=tests/attack $(PARALLEL) $(MARKED) --cov --cov-branch --cov-report= $(PYTEST_ARGUMENTS)
	$(VENV)/bin/python -m coverage report --skip-covered --show-missing --fail-under=100

check: $(VENV)/dev.stamp ## check lint, format, types, spelling and words
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy $(CHECKED)
	$(VENV)/bin/codespell $(WRITTEN)
	$(VENV)/bin/python -m tools.prose

format: $(VENV)/dev.stamp ## rewrite files in the format that check expects
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test-minimal: ## run a relay and a tunnel with Debian's python3 and its packages only
	env -i PATH=/usr/bin:/bin PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tests/minimal_tunnel.py

test-pythons: ## run the fast tests on each installed version in PYTHONS
	@for version in $(PYTHONS); do sh tools/test-python $$version $(PARALLEL) $(PYTEST_ARGUMENTS) || exit 1; done

bench: $(VENV)/dev.stamp ## run the benchmarks, results in bench.json; BENCH="--quick" or BENCH="handshakes" for less
	$(VENV)/bin/python -m bench $(or $(BENCH),--json bench.json)

publish: $(VENV)/dev.stamp ## put the figures of bench.json into docs/performance.md, with a plot
	$(VENV)/bin/python -m pip install --quiet --quiet --editable '.[plots]'
	$(VENV)/bin/python -m bench.publish bench.json

deb: ## build the Debian package in build/deb, and check it with lintian
	@sh tools/build-deb

test-deb: ## install, upgrade, remove and purge the package in a Debian that systemd-nspawn boots; needs root
	@bash tools/test-deb

image: ## build the image offset-relay with podman or docker
	@sh tools/build-image

test-image: ## run the image and check it
	@bash tools/test-image

docs/illustrated.html: docs/illustrated.json $(wildcard offset_common/illustrate/*) $(VENV)/run.stamp
	$(VENV)/bin/python tools/illustrate.py $< $@

illustrated: docs/illustrated.html ## make the illustrated page of the recorded run, docs/illustrated.html

docs: $(VENV)/docs.stamp ## build the site of the documentation in site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet
	@echo "open site/index.html"

clean: ## remove environments and everything built, but not relay/ with its identity
	rm -rf $(VENV) .venv-* build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache fuzz-corpus bench.json docs/illustrated.html site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's python3 has venv, but not the ensurepip that venv needs.
$(VENV)/run.stamp: pyproject.toml $(BROKEN)
	@$(call check_python,$(PYTHON))
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "cannot create an environment: $(PYTHON) cannot import venv and ensurepip" >&2; \
		echo "on Debian or Ubuntu: apt-get install python3-venv; or give another Python, as in PYTHON=python3.12" >&2; \
		exit 1; }
	@$(if $(BROKEN),rm -rf $(VENV)/bin $(VENV)/lib)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --quiet 'pip>=21.3'
	$(VENV)/bin/python -m pip install --quiet --quiet --editable '.[qr,metrics]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(VENV)/bin/python -m pip install --quiet --quiet --editable '.[dev]'
	touch $@

$(VENV)/docs.stamp: $(VENV)/run.stamp
	$(VENV)/bin/python -m pip install --quiet --quiet --editable '.[docs]'
	touch $@

# `make fuzz`: arguments, for example FUZZ="--seconds 30 messages classify".
FUZZ ?=

fuzz: $(VENV)/dev.stamp ## give ten minutes of random input to all decoders; FUZZ="--seconds 30" for less
	@$(VENV)/bin/python -c 'import atheris' 2>/dev/null \
		|| $(VENV)/bin/python -m pip install --quiet --only-binary :all: atheris >$(VENV)/log 2>&1 || true
	@$(VENV)/bin/python -m tests.fuzz $(FUZZ)

soak: $(VENV)/dev.stamp ## let 200 nodes use a relay for SECONDS (600) and check every byte; also SEED=, WORKERS=
	$(VENV)/bin/python -m tests.soak --seconds $(SECONDS) --workers $(WORKERS) $(if $(SEED),--seed $(SEED))

# `make attack`: arguments for pytest, for example ATTACK="-k keys".
ATTACK ?= tests/attack

attack: $(VENV)/dev.stamp ## attack a relay and check that others are not disturbed; ATTACK="-k keys" for less
	$(VENV)/bin/python -m pytest $(if $(findstring tests/attack,$(ATTACK)),,tests/attack) $(ATTACK)
