# Everything runs in a private virtual environment below $(VENV); nothing is installed anywhere else.
#
#   make demo              run the whole lab once
#   make test              all tests            (ARGS=... goes to pytest; JOBS=1: one after another)
#   make interop           fetch a foreign hypervisor and foreign management software, and run the tests against them
#   make load              200 sessions of management software at once for a minute (ARGS=...)
#   make preload           the library that gives programs a /dev/ibmvmc (docs/device-protocol.md); needs gcc
#   make test-pythons      the tests on every Python that is installed
#   make fuzz              5 million mutated inputs for every reader (ARGS='--inputs 100000', '--seconds 60', --help)
#   make soak              the tests that kill processes, many times over (an hour)
#   make cover             branch coverage of the pure packages, at least 95 %
#   make lint              ruff, mypy, import rules, generated code up to date
#   make test PYTHON=python3.13 VENV=.venv313   with another Python
#
# The stamp files, not the directory, say that a virtual environment is complete: a failed `python3 -m venv` leaves a
# directory behind that looks like one.

VENV ?= .venv
# Tests wait more than they compute: one process more than there are CPUs.
JOBS ?= $(shell expr $$(nproc) + 1)
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup dev demo test interop load preload test-pythons fuzz soak cover lint format bench proto clean

help:
	@sed -n 's/^#   //p' Makefile

# Runtime, the embedded broker, REST and the FUSE mount: all that a user needs.
$(VENV)/.ok: pyproject.toml
	@PYTHON="$(PYTHON)" sh .ci/venv.sh $(VENV)
	@echo "installing pvnet into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[broker,fuse,novalink]'
	@touch $@

# What a developer needs on top.
$(VENV)/.dev: $(VENV)/.ok
	@echo "installing the development tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: $(VENV)/.ok

dev: $(VENV)/.dev

demo: $(VENV)/.ok
	@$(BIN)/pvnet demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# Foreign software, as it is shipped, on the other end.  Where it cannot be had the tests are skipped, by name.
interop: $(VENV)/.dev
	@.ci/interop.sh || [ $$? -eq 77 ]
	@.ci/clients.sh pypowervm ansible || [ $$? -eq 77 ]
	$(BIN)/python -m pytest tests/interop $(ARGS)

# Many log-ons at once to the NovaLink service of a lab: requests, errors, times, and the memory of its process.
load: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -W error -m novalink.load $(ARGS)

# /dev/ibmvmc for programs that are not changed: PVNET_IBMVMC=unix:PATH LD_PRELOAD=deploy/preload/libpvnet-ibmvmc.so ...
preload: deploy/preload/libpvnet-ibmvmc.so

deploy/preload/libpvnet-ibmvmc.so: deploy/preload/ibmvmc.c
	$(CC) -std=c11 -O2 -Wall -Wextra -Werror -U_FORTIFY_SOURCE -fPIC -shared -o $@ $< -ldl -pthread

# Damaged files, messages and expressions; what fails is written down with the command that shows it again.
fuzz: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -W error -m fuzz $(ARGS)

# What `make test` does a few times at random moments, here hundreds of times.
soak: $(VENV)/.dev
	PVNET_SOAK=1 $(BIN)/python -m pytest tests/system $(ARGS)

# The tests on every Python from 3.11 on that this machine has, each in a virtual environment of its own.
test-pythons:
	@for minor in 11 12 13 14 15; do \
	  for python in python3.$$minor $$HOME/.pyenv/versions/3.$$minor.*/bin/python3.$$minor; do \
	    if $$python -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	      echo "== $$python"; $(MAKE) test PYTHON=$$python VENV=.venv3.$$minor ARGS="$(ARGS)" || exit 1; break; \
	    fi; \
	  done; \
	done

# Branch coverage of the packages that are pure functions of their input; the others are judged by what they do.
cover: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(JOBS) tests/core tests/memory tests/papr tests/ring tests/vmc tests/scm tests/vbus tests/mdev \
	  --cov=pvnet.core --cov=pvnet.memory --cov=pvnet.papr --cov=pvnet.ring --cov=pvnet.vmc --cov=pvnet.scm \
	  --cov=pvnet.vbus --cov=pvnet.mdev --cov-branch \
	  --cov-report=term-missing:skip-covered --cov-fail-under=95 $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python proto/compat.py
	$(BIN)/python deploy/wireshark/generate.py --check

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.dev
	$(BIN)/pvnet bench $(ARGS)

proto: $(VENV)/.dev
	$(BIN)/python proto/generate.py
	$(BIN)/python proto/compat.py --write

clean:
	rm -rf $(VENV) dist build deploy/preload/libpvnet-ibmvmc.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
