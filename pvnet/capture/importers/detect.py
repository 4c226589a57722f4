"""Which format a file has, by its content: names of files say nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pvnet.capture.hcall_trace import SCHEMA as HCALL_TRACE
from pvnet.capture.importers.calls import parse_object
from pvnet.capture.importers.lines import TEXT_LINE_BYTES
from pvnet.capture.jsonl import MAX_LINE_BYTES
from pvnet.capture.transcript import SCHEMA as TRANSCRIPT
from pvnet.core.errors import ConfigError

_HEAD_BYTES: Final = 1 << 20
SCHEMAS: Final = {HCALL_TRACE: "hcall-trace", TRANSCRIPT: "transcript"}
SIMPLETRACE_HEAD: Final = b"\xff" * 8
SIMPLETRACE_MAGIC: Final = 0xF2B177CB0AA429B4

# Beginnings of files that are not for us, and what their owner can do about it.
_FOREIGN: Final = (
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"\x17\x08\x44tracing", "trace-cmd's own file: import what 'trace-cmd report' prints"),
    (b"PERFILE2", "perf's own file: import what 'perf script' prints"),
    (b"\xd4\xc3\xb2\xa1", "an old capture file: 'editcap -F pcapng' makes it pcapng"),
    (b"\xa1\xb2\xc3\xd4", "an old capture file: 'editcap -F pcapng' makes it pcapng"),
    (b"\x4d\x3c\xb2\xa1", "an old capture file: 'editcap -F pcapng' makes it pcapng"),
    (b"\xa1\xb2\x3c\x4d", "an old capture file: 'editcap -F pcapng' makes it pcapng"),
)
_EXPECTED: Final = (
    "a pcapng capture, pvnet-hcall-trace/1, pvnet-vmc-transcript/1, a trace of hcall or kvm_hcall events, a QEMU log, "
    "or dmesg of ibmvmc or papr_scm"
)
# The first line that matches one of these decides.
_TEXT: Final = (
    ("tracefs", re.compile(r"# tracer: ")),
    ("trace-cmd", re.compile(r"cpus=\d+\s*$")),
    ("qemu-log", re.compile(r".*\bhypercall r3=[0-9a-f]{16} r4=")),
    ("qemu-log", re.compile(r"Unimplemented SPAPR hcall 0x")),
    ("qemu-log", re.compile(r".*\bHypercall made with MSR\[PR\]=1")),
    ("qemu-log", re.compile(r"(\S*\d:\s?|\S+ )?(kvm_handle_papr_hcall|spapr_\w+)( |$)")),
    ("dmesg", re.compile(r".*\bibmvmc( [0-9a-f]+)?: |.*\bpapr_scm\b.*: ")),
    ("perf", re.compile(r".*\[\d+\]\s+\S+:\s+(powerpc:hcall_|kvm_hv:kvm_hcall_|probe:h|PERF_RECORD_LOST)")),
    ("tracefs", re.compile(r".*\[\d+\]\s+[^\s\d]\S{3,4}\s+\d+(\.\d+)?:\s+(hcall_|kvm_hcall_|h(in|out): )")),
    ("tracefs", re.compile(r".*-\d+\s+\d+[^\s\d]\S{2,5}\s.*:\s+(hcall_|kvm_hcall_|h(in|out): )")),
    ("trace-cmd", re.compile(r".*\[\d+\]\s+.*\d:\s+(hcall_|kvm_hcall_|h(in|out): )")),
    ("tracefs", re.compile(r"\s*CPU:\d+ \[LOST .*EVENTS\]")),
)  # fmt: skip


def sniff(path: Path | str) -> str:
    """Return the format of a file, one of those in :mod:`pvnet.capture.importers`.

    Raises :class:`ConfigError` that says what the file is instead; ``OSError`` when it cannot be read.
    """
    if Path(path).is_fifo():  # it would be opened twice: to look, and to read
        raise ConfigError(f"{path}: a named pipe: expected a file, or - for standard input")
    with Path(path).open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head.strip():
        raise ConfigError(f"{path}: the file is empty: expected {_EXPECTED}")
    if head.startswith(b"\x0a\x0d\x0d\x0a"):
        return "pcapng"
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise ConfigError(f"{path}: {what}")
    if head.startswith(SIMPLETRACE_HEAD) and SIMPLETRACE_MAGIC in (
        int.from_bytes(head[8:16], "little"), int.from_bytes(head[8:16], "big")
    ):  # fmt: skip
        return "simpletrace"
    if b"\0" in head[:4096]:
        raise ConfigError(f"{path}: binary, and of no format that is known: expected {_EXPECTED}")
    if head.lstrip().startswith(b"{"):
        return _recording(path, head)
    for line in head.decode(errors="replace").splitlines():
        for name, pattern in _TEXT:
            if len(line) <= TEXT_LINE_BYTES and pattern.match(line):
                return name
    raise ConfigError(f"{path}: of no format that is known: expected {_EXPECTED}")


def _recording(path: Path | str, head: bytes) -> str:
    line = head.lstrip().partition(b"\n")[0]
    values = parse_object(line)
    if values is None:
        limit = "; longer than the longest line" if len(line) >= MAX_LINE_BYTES else ""
        raise ConfigError(f"{path}:1: not JSON{limit}: expected one JSON object per line")
    meta = values.get("meta")
    schema = meta.get("schema") if isinstance(meta, dict) else None
    if schema not in SCHEMAS:
        raise ConfigError(f"{path}:1: schema {schema!r}: expected one of {', '.join(SCHEMAS)}")
    return SCHEMAS[schema]
