"""``.ci/venv.sh``, the first thing that runs on a fresh machine: what is missing is named, and no ruin is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci/venv.sh"


def run(directory: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), str(directory)],
        env={**os.environ, "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(path: Path, body: str) -> str:
    path.write_text(f'#!/bin/sh\n{body}\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_no_usable_python_is_said_with_what_was_looked_for(tmp_path: Path) -> None:
    broken_shim = fake_python(tmp_path / "shim", "exit 127")
    done = run(tmp_path / "venv", f"/no/such/python {broken_shim}")
    assert done.returncode == 1
    assert f"pvnet needs Python 3.11 or newer; looked for: /no/such/python {broken_shim}" in done.stderr
    assert "apt install python3 python3-venv" in done.stderr


def test_missing_ensurepip_names_the_package(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python", 'case "$2" in *ensurepip*) exit 1;; esac')
    done = run(tmp_path / "venv", python)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert done.returncode == 1
    assert f"apt install python3-venv (python{version}-venv)" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_half_made_environment_is_deleted(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python", 'if [ "$2" = venv ]; then mkdir -p "$3/bin"; exit 1; fi')
    assert run(tmp_path / "venv", python).returncode == 1
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
def test_first_python_that_works_is_taken_and_a_complete_environment_is_kept(tmp_path: Path) -> None:
    broken_shim = fake_python(tmp_path / "shim", "exit 127")
    done = run(tmp_path / "venv", f"{broken_shim} {sys.executable}")
    assert done.returncode == 0, done.stderr
    assert sys.executable in done.stdout
    (tmp_path / "venv/mine").touch()
    assert run(tmp_path / "venv", "/no/such/python").returncode == 0
    assert (tmp_path / "venv/mine").exists()
