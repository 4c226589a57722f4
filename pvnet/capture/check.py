"""Conformance: run any recording against our machines and say what agrees.

The first line of a file says what it is: a VMC session is run against the management partition's machine
(:mod:`pvnet.capture.vmc_check`), a trace of hcalls against the hypervisor: one of CRQ hcalls by
:mod:`pvnet.capture.hcall_check`, one of SCM hcalls by :mod:`pvnet.capture.scm_check`.
"""

from __future__ import annotations

from pathlib import Path

from pvnet.capture import hcall_trace, transcript
from pvnet.capture.hcall_check import CrqTargetFactory, LocalCrqTarget, run_hcall_trace
from pvnet.capture.jsonl import read_objects, schema_of
from pvnet.capture.report import Report
from pvnet.capture.scm_check import LocalScmTarget, ScmTargetFactory, run_scm_trace
from pvnet.capture.vmc_check import PartitionFactory, run_vmc_transcript
from pvnet.vmc.partition import VmcPartition


def check_file(
    path: Path,
    make_machine: PartitionFactory = VmcPartition,
    make_crq: CrqTargetFactory = LocalCrqTarget,
    make_scm: ScmTargetFactory = LocalScmTarget,
) -> Report:
    """Run one recording; the factories may put a transport between the runner and what it compares.

    Raises :class:`pvnet.core.errors.ConfigError` (file, line, what was expected) when it cannot be read or run.
    """
    objects = read_objects(path)
    match schema_of(objects[0]):
        case transcript.SCHEMA:
            return run_vmc_transcript(transcript.parse_transcript(str(path), objects), make_machine)
        case hcall_trace.SCHEMA:
            trace = hcall_trace.parse_hcall_trace(str(path), objects)
            if hcall_trace.is_scm(trace):
                return run_scm_trace(trace, make_scm)
            return run_hcall_trace(trace, make_crq)
        case _:
            raise objects[0].child("meta").error("schema", f'"{transcript.SCHEMA}" or "{hcall_trace.SCHEMA}"')
