"""``pip install`` of the wheel and of the sdist, each in a clean virtual environment, gives a working ``pvnet``."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def make_venv(path: Path) -> Path:
    run(sys.executable, "-m", "venv", path)
    return path / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist of this tree and the wheel that pip makes of that sdist."""
    scratch = tmp_path_factory.mktemp("build")
    tools = make_venv(scratch / "tools")
    run(tools / "pip", "install", "--quiet", "hatchling>=1.27")
    run(tools / "python", "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", scratch / "dist", cwd=ROOT)
    return scratch / "dist"


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_installs_and_runs_in_a_clean_environment(built: Path, tmp_path: Path, kind: str) -> None:
    (archive,) = built.glob(kind)
    bin_ = make_venv(tmp_path / "venv")
    run(bin_ / "pip", "install", "--quiet", archive)
    assert "demo" in run(bin_ / "pvnet", "--help", cwd=tmp_path)
    schema = json.loads(run(bin_ / "pvnet", "schema", cwd=tmp_path))
    assert schema["title"] == "Topology"
    where = run(bin_ / "python", "-c", "import pvnet_services, pvnet; print(pvnet.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where, "the source tree must not be what is tested"
    assert "Apache License" in next((tmp_path / "venv").rglob("pvnet-*.dist-info/licenses/LICENSE")).read_text()


def test_the_example_tests_run_with_what_the_readme_installs(built: Path, tmp_path: Path) -> None:
    """In a clone, by plain pytest: the settings and plugins of our own tests are not there."""
    (wheel,) = built.glob("*.whl")
    readme = (ROOT / "README.md").read_text()
    (extras,) = re.findall(r'pip install "pvnet(\[.*\])" pytest$', readme, re.MULTILINE)
    (command,) = re.findall(r"^\$ (pytest .* examples/novalink_tests)$", readme, re.MULTILINE)
    bin_ = make_venv(tmp_path / "venv")
    run(bin_ / "pip", "install", "--quiet", f"{wheel}{extras}", "pytest")
    assert "2 passed" in run(bin_ / "python", "-P", "-m", *command.split(), cwd=ROOT)
