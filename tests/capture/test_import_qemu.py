"""QEMU's own log: recorded here from a guest without an operating system, where QEMU is installed."""

from __future__ import annotations

import json
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from pvnet.capture.importers import Problems, open_any, sniff

DATA = Path(__file__).parent.parent / "data"
ENTRY = 0x100
"""Where a pseries machine begins."""
DRC = 0x10000000


def lis(register: int, value: int) -> int:
    return 0x3C000000 | register << 21 | value


def ori(register: int, value: int) -> int:
    return 0x60000000 | register << 21 | register << 16 | value


def hcall(opcode: int, *args: int) -> list[int]:
    words = [word for at, arg in enumerate(args, 4) for word in (lis(at, arg >> 16), ori(at, arg & 0xFFFF))]
    return [*words, 0x38600000 | opcode, 0x44000022]


GUEST = [
    *hcall(0x3E4, DRC, 0, 8), *hcall(0x3F4, 1, 2), *hcall(0x44C, DRC, 0), *hcall(0x7FFC), 0x48000000
]  # fmt: skip
"""Four hcalls, the last one of an opcode that nobody has, then a loop."""


def check(path: Path) -> None:
    assert sniff(path) == "qemu-log"
    problems = Problems()
    objects: list[dict[str, Any]] = [json.loads(record.data) for record in open_any(path, problems)]
    assert problems.texts == []
    drcs = [o for o in objects if o.get("event") == "spapr_drc_attach"]
    assert drcs[0]["values"] == {"drc": "0x10000000"}
    assert drcs[0]["time"] > 1_000_000_000
    calls = [o for o in objects if "opcode" in o]
    assert [(o["opcode"], o["name"], o["args"][:3], o["rc"], o["note"]) for o in calls] == [
        ("0x3e4", "H_SCM_READ_METADATA", ["0x10000000", "0x0", "0x8"], None, "logged before it ran"),
        ("0x3f4", "H_SCM_QUERY_BLOCK_MEM_BINDING", ["0x1", "0x2", "0x8"], -2, "unimplemented"),
        ("0x44c", "H_SCM_FLUSH", ["0x10000000", "0x0", "0x8"], None, "logged before it ran"),
        ("0x7ffc", None, ["0x10000000", "0x0", "0x8"], -2, "unimplemented"),
    ]
    assert all(len(o["args"]) == 9 and o["outs"] is None and o["cpu"] is None and o["time"] is None for o in calls)


def test_a_recorded_log() -> None:
    check(DATA / "qemu-7.2.log")


@pytest.mark.needs("qemu-system-ppc64")
def test_a_log_that_qemu_writes_now(tmp_path: Path) -> None:
    image, log = tmp_path / "guest.bin", tmp_path / "qemu.log"
    image.write_bytes(bytes(ENTRY) + struct.pack(f">{len(GUEST)}I", *GUEST))
    command = [
        "qemu-system-ppc64", "-M", "pseries", "-accel", "tcg", "-m", "256", "-bios", str(image), "-nodefaults",
        "-display", "none", "-serial", "none", "-monitor", "none", "-d", "int,unimp,guest_errors",
        "-trace", "spapr_drc_attach", "-msg", "timestamp=on",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE) as qemu, log.open("wb") as stream:
        deadline = threading.Timer(60, qemu.kill)
        deadline.start()
        try:
            assert qemu.stderr is not None
            for line in qemu.stderr:
                stream.write(line)
                if b"Unimplemented SPAPR hcall 0x0000000000007ffc" in line:
                    break
        finally:
            deadline.cancel()
            qemu.kill()
    check(log)


def test_what_that_guest_does_not_cause() -> None:
    path = DATA / "qemu-others.log"
    problems = Problems()
    objects: list[dict[str, Any]] = [json.loads(record.data) for record in open_any(path, problems)]
    calls = [(o["opcode"], o["args"], o["rc"]) for o in objects if "opcode" in o]
    assert calls == [
        ("0x400", ["0x90000000"], -3),
        (None, None, -3),
        ("0x378", None, -2),
        ("0x378", None, -2),
        ("0x3ec", None, None),
        (None, None, None),
        ("0x3ec", None, None),
        ("0x44c", ["0x90000001", "0x7"], None),
        ("0x44c", ["0x90000001", "0x8"], None),
    ]
    assert [o["time"] for o in objects if o.get("opcode") == "0x378"] == [1794823200.25, None]
    events = [(o["event"], o["values"]) for o in objects if "event" in o]
    assert events == [("papr_scm", {}), ("spapr_drc_reset", {"drc": "0x90000000"})]
    assert [text.split(":")[1] for text in problems.texts] == ["11"]


def test_the_last_line_may_be_half(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("spapr_drc_reset drc: 0x1\nUnimplemented SPAPR hcall 0x00000000000003f")
    problems = Problems()
    objects = [json.loads(record.data) for record in open_any(path, problems)]
    assert objects[1]["opcode"] == "0x3f"
    assert problems.count == 1
    path.write_text("spapr_drc_reset drc: 0x1\nhypercall r3=00000000000003e4 nip=0")
    assert json.loads(list(open_any(path))[1].data)["note"] == "the line may be cut short; logged before it ran"
    path.write_text("ibmvmc 2000: x\nibmvmc 2000: (0x2000, 0x0000000000000000, 0x0000000000000000)")
    problems = Problems()
    assert len(list(open_any(path, problems))) == 2
    assert problems.count == 1
