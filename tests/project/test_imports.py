"""The import rules of pyproject.toml hold, and breaking one is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).parent / "lint-imports"


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root}/services", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_package_imports_only_what_is_below_it() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_a_clock_in_a_pure_package_is_refused(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pvnet", tmp_path / "pvnet", ignore=ignore)
    shutil.copytree(ROOT / "services", tmp_path / "services", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "pvnet/core/clock_inside.py").write_text('"""Wrong."""\n\nimport time\n\nNOW = time.time\n')
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout
    assert "pvnet.core.clock_inside -> time" in done.stdout
