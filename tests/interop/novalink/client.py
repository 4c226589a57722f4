"""A program of pypowervm's environment, told step by step what to do (``pypowervm_steps.py``)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[3]
FETCH: Final = REPOSITORY / ".ci" / "clients.sh"
_STEPS: Final = Path(__file__).with_name("pypowervm_steps.py")


def environment_of(client: str) -> Path:
    """The folder of a client's virtual environment."""
    return REPOSITORY / os.environ.get("PVNET_INTEROP", ".interop") / client


class StepError(AssertionError):
    """A step of the program raised an exception; ``types`` are its class and those above it."""

    def __init__(self, step: str, error: dict[str, Any]) -> None:
        super().__init__(f"{step}: {error['types'][0]}: {error['text']}")
        self.types: list[str] = error["types"]
        self.text: str = error["text"]
        self.status: int | None = error["status"]
        self.reason_code: str | None = error["reason_code"]
        self.message: str = error["message"] or ""


class Program:
    """The program that runs; its steps are methods."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __getattr__(self, step: str) -> Any:
        def call(**args: Any) -> Any:
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            stdin.write(json.dumps({"step": step, "args": args}) + "\n")
            stdin.flush()
            line = stdout.readline()
            assert line, f"the program ended in step {step}"
            answer = json.loads(line)
            if "error" in answer:
                raise StepError(step, answer["error"])
            return answer["ok"]

        return call


@contextmanager
def program(ca: str | None = None) -> Iterator[Program]:
    """Start a program; ``ca``: what it trusts."""
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_CA_BUNDLE")}
    if ca is not None:
        variables["REQUESTS_CA_BUNDLE"] = ca
    command = [str(environment_of("pypowervm") / "bin" / "python"), "-W", "ignore", str(_STEPS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables)
    with process:
        try:
            yield Program(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
