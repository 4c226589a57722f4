"""What processes of a lab do not load, because each would wait for it at its start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pvnet.runtime.child import spawn


def run(code: str) -> str:
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("module", ["pvnet_services.hypervisor", "pvnet_services.partition", "pvnet.cli.lab"])
def test_rich_is_not_loaded_by_what_only_logs(module: str) -> None:
    start = "import pvnet.runtime.plain_structlog, pvnet.runtime.lab" if module == "pvnet.cli.lab" else "pass"
    assert (
        run(f"import sys, {module}\n{start}\nprint('structlog' in sys.modules, 'rich' in sys.modules)")
        == "True False\n"
    )


def test_who_wants_rich_gets_it() -> None:
    assert run("import pvnet.runtime.plain_structlog, rich.console, structlog; print('fine')") == "fine\n"
    loaded = "import rich, sys, pvnet.runtime.plain_structlog; print(sys.modules['rich'] is rich)"
    assert run(loaded) == "True\n"


@pytest.mark.parametrize(("given", "threads"), [(None, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")])
async def test_modules_of_ours_start_no_threads_for_linear_algebra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str] | None, threads: str
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    (tmp_path / "told.py").write_text("import os; print(os.environ.get('OPENBLAS_NUM_THREADS'))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name, value in (given or {}).items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "log"
    assert await spawn("told", ["told"], module=True, log=log).wait() == 0
    assert log.read_text() == f"{threads}\n"
    program = [sys.executable, "-c", "import os; print('OPENBLAS_NUM_THREADS' in os.environ)"]
    assert await spawn("other", program, log=log).wait() == 0
    assert log.read_text() == f"{threads}\n{given is not None}\n"
