"""Management software in environments of its own, and labs for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from interop.novalink.client import FETCH, Program, environment_of, program
from interop.novalink.lab import EAST, Lab, lab_up


def _have(client: str, complete: str = ".complete") -> None:
    """See that a client is there; where nothing may be skipped, fetch it."""
    if (environment_of(client) / complete).exists():
        return
    why = f"no {client} for tests/interop/novalink is fetched (make interop)"
    if os.environ.get("CI") == "true":
        done = subprocess.run([str(FETCH), client], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        sys.stderr.write(done.stdout + done.stderr)
    pytest.skip(why)


@pytest.fixture(scope="session")
def pypowervm() -> None:
    """An unmodified pypowervm."""
    _have("pypowervm")


@pytest.fixture(scope="session")
def ansible() -> None:
    """An unmodified Ansible with the inventory plugin of ibm.power_hmc."""
    _have("ansible", "collections/.complete")


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """A lab for tests that leave it as they found it."""
    with lab_up() as lab:
        yield lab


@pytest.fixture(scope="module")
def changed_lab() -> Iterator[Lab]:
    """A lab for tests that change it."""
    with lab_up() as lab:
        yield lab


@pytest.fixture(scope="module")
def reader(pypowervm: None, shared_lab: Lab) -> Iterator[Program]:
    """A program that is logged on to the shared lab."""
    with program(shared_lab.endpoint["ca"]) as running:
        running.log_on(**shared_lab.by_password)
        yield running


@pytest.fixture
def lab(pypowervm: None, changed_lab: Lab) -> Iterator[Lab]:
    """A lab as it was at its start; what the test does to it is undone afterwards, by the same means."""
    yield changed_lab
    with program(changed_lab.endpoint["ca"]) as running:
        running.log_on(**changed_lab.by_password)
        running.restore(uuid=EAST)


@pytest.fixture
def client(lab: Lab) -> Iterator[Program]:
    """A program that is logged on to a lab that it may change."""
    with program(lab.endpoint["ca"]) as running:
        running.log_on(**lab.by_password)
        yield running
