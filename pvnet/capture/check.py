"""Conformance: run any recording against our machines and say what agrees.

The first line of a file says what it is: a VMC session is run against the management partition's machine
(:mod:`pvnet.capture.vmc_check`), a trace of hcalls against the hypervisor (:mod:`pvnet.capture.hcall_check`).
"""

from __future__ import annotations

from pathlib import Path

from pvnet.capture import hcall_trace, transcript
from pvnet.capture.hcall_check import run_hcall_trace
from pvnet.capture.jsonl import read_objects, schema_of
from pvnet.capture.report import Report
from pvnet.capture.vmc_check import run_vmc_transcript


def check_file(path: Path) -> Report:
    """Run one recording.

    Raises :class:`pvnet.core.errors.ConfigError` (file, line, what was expected) when it cannot be read or run.
    """
    objects = read_objects(path)
    match schema_of(objects[0]):
        case transcript.SCHEMA:
            return run_vmc_transcript(transcript.parse_transcript(str(path), objects))
        case hcall_trace.SCHEMA:
            return run_hcall_trace(hcall_trace.parse_hcall_trace(str(path), objects))
        case _:
            raise objects[0].child("meta").error("schema", f'"{transcript.SCHEMA}" or "{hcall_trace.SCHEMA}"')
