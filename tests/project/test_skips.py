"""The rule about skipped tests itself, tried in a pytest run of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

MODULE = """
import pytest

@pytest.mark.needs("no-such-program")
def test_of_something_absent():
    raise AssertionError("the program is not there")

def test_that_passes():
    pass
"""


@pytest.mark.parametrize(("ci", "expected"), [("false", 0), ("true", 1)])
def test_missing_program_is_named_and_fails_only_in_ci(tmp_path: Path, ci: str, expected: int) -> None:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_inner.py").write_text(MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = needs\nasyncio_default_fixture_loop_scope = function\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "skipped 1: no-such-program is not installed" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert done.returncode == expected, done.stdout + done.stderr
