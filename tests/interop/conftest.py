"""The foreign programs that these tests run against."""

from __future__ import annotations

import os
import subprocess

import pytest
from interop.qemu_guest import FETCH, Parts, find_parts


@pytest.fixture(scope="session")
def parts() -> Parts:
    """What a guest is made of; ``make interop`` fetches it, and so do these tests where nothing may be skipped."""
    found = find_parts()
    why = found.missing()
    if why is not None and os.environ.get("CI") == "true":
        done = subprocess.run([str(FETCH)], capture_output=True, text=True, check=False)
        why = found.missing() and (done.stdout.strip() or done.stderr.strip())
    if why is not None:
        pytest.skip(why)
    return found
