"""What is damaged: a recording of the demo, the recordings and logs of the tests, and rare forms made by hand."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from user_payloads import access, dma, irqs

from pvnet.capture.importers.detect import SIMPLETRACE_HEAD, SIMPLETRACE_MAGIC
from pvnet.capture.model import (
    LINKTYPE_ENVELOPE,
    LINKTYPE_ETHERNET,
    LINKTYPE_HCALL,
    LINKTYPE_MEMORY,
    CaptureInfo,
    Direction,
    Interface,
    Record,
)
from pvnet.capture.pcapng import SIMPLE_BLOCK, block, option, section_block
from pvnet.capture.pvcap import CaptureWriter, open_capture
from pvnet.mdev.vfio_user import Command, command_parts
from pvnet.mdev.vfio_user_version import Capabilities, encode_version

TESTS = Path(__file__).parent.parent
MOST_BYTES = 6000
"""Of one input before it is damaged: many small ones find more than few big ones."""
KEPT_PER_KIND = 12


@dataclass(frozen=True)
class Seeds:
    """Everything that the targets begin with; the same on every machine."""

    captures: tuple[bytes, ...]
    texts: tuple[bytes, ...]
    envelopes: tuple[bytes, ...]
    records: tuple[tuple[int, bytes], ...]
    """Link type and bytes of what is no envelope."""
    vfio: tuple[bytes, ...]
    """Conversations: the client's messages, back to back."""
    replies: tuple[bytes, ...]
    """The server's."""
    filters: tuple[bytes, ...]


def demo_records() -> list[Record]:
    """The demo on its own clock, recorded: the same messages every time."""
    with tempfile.TemporaryDirectory(prefix="pvnet-fuzz-") as folder:
        path = Path(folder) / "demo.pvcap.pcapng"
        command = [Path(sys.executable).with_name("pvnet"), "demo", "--loopback", "--seed", "1", "--record", path]
        subprocess.run(command, check=True, capture_output=True)
        with open_capture(path) as reader:
            return list(reader)


def make_seeds(demo: list[Record]) -> Seeds:
    kinds: dict[str, list[bytes]] = defaultdict(list)
    conversations: dict[int, list[bytes]] = defaultdict(list)
    answers: dict[int, list[bytes]] = defaultdict(list)
    for record in demo:
        envelope = record.envelope()
        if envelope is None or record.direction == Direction.IN:
            continue
        kind = envelope.WhichOneof("body") or ""
        said = envelope.mdev_message
        if kind == "mdev_message":
            talk = conversations if struct.unpack_from("<I", said.message, 8)[0] & 0xF == 0 else answers
            talk[said.session].append(said.message)
            kind += str(struct.unpack_from("<H", said.message, 2)[0])
        elif kind == "hcall":
            kind += str(envelope.hcall.opcode)
        if len(record.data) <= MOST_BYTES and len(kinds[kind]) < KEPT_PER_KIND:
            kinds[kind].append(record.data)
    envelopes = [data for kind in sorted(kinds) for data in kinds[kind]]
    lines = [line for path in sorted((TESTS / "vectors").glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    records = [(LINKTYPE_HCALL, line) for line in lines[::7] if len(line) < MOST_BYTES]
    records += [(LINKTYPE_HCALL, line) for line in _imported_lines()]
    records += [(LINKTYPE_ETHERNET, frame) for frame in FRAMES]
    records += [(LINKTYPE_MEMORY, struct.pack(">B7xQ", kind, 0x1000) + b"x" * 40) for kind in (1, 2)]
    records.append((252, bytes(40)))
    vfio = [*_scripts(), *(b"".join(part)[:MOST_BYTES] for one in conversations.values() for part in _parts(one, 25))]
    replies = [data for one in answers.values() for data in one if len(data) <= MOST_BYTES][:200]
    return Seeds(
        captures=tuple(_captures(demo, envelopes, records)),
        texts=tuple(_texts()),
        envelopes=tuple(envelopes),
        records=tuple(records),
        vfio=tuple(vfio),
        replies=tuple(replies),
        filters=FILTERS,
    )


# --- captures --------------------------------------------------------------------------------------------------------


def _captures(demo: list[Record], envelopes: list[bytes], records: list[tuple[int, bytes]]) -> Iterator[bytes]:
    info = CaptureInfo("pvnet", "ppc64le", "Linux 6.1", '{"lab": {"name": "demo"}}', b"\x0a\x04\x0a\x02ab")
    for first in (0, 20, 400, len(demo) // 2):
        out = io.BytesIO()
        writer = CaptureWriter(out.write, info)
        for record in demo[first : first + 12]:
            if len(record.data) < 1000:
                writer.copy(record)
        writer.statistics({demo[first].interface.name: 12}, {demo[first].interface.name: 1})
        yield out.getvalue()
    out = io.BytesIO()
    writer = CaptureWriter(out.write, CaptureInfo())
    for number, (link_type, data) in enumerate(records[:: max(1, len(records) // 10)]):
        interface = Interface(f"lpar{number}/x", link_type, "imported")
        writer.record(interface, None if number % 3 else number * 10**9, data[:500], comment="why", original_bytes=600)
    yield out.getvalue()
    yield out.getvalue() + _simple("<")
    yield _simple("<")
    yield _simple(">")
    yield _simple(">") + _simple("<")


def _simple(order: str) -> bytes:
    """All blocks that we read, in either byte order; resolutions, an offset of time, a block that nobody knows."""

    def one(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = struct.pack(order + "I", len(body) + 12)
        return struct.pack(order + "I", kind) + size + body + size

    def opt(code: int, value: bytes) -> bytes:
        return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)

    end = bytes(4)
    data = one(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1) + opt(4, b"other") + end)
    data += one(1, struct.pack(order + "HHI", LINKTYPE_ETHERNET, 0, 64) + opt(2, b"eth0") + opt(9, b"\x94") + end)
    data += one(SIMPLE_BLOCK, struct.pack(order + "I", 40) + bytes(40))
    resolution = opt(9, b"\x06") + opt(14, struct.pack(order + "q", -3600))
    data += one(1, struct.pack(order + "HHI", LINKTYPE_ENVELOPE, 0, 0) + opt(3, b"second") + resolution + end)
    packet = struct.pack(order + "IIIII", 1, 5, 6, 8, 9) + b"\x08\x01\x12\x03lab" + b"\0"
    data += one(6, packet + opt(2, struct.pack(order + "I", 2)) + opt(1, b"one") + opt(1, b"two") + end)
    data += one(4, bytes(8)) + one(0x80000001, b"abc")
    data += one(5, struct.pack(order + "III", 1, 5, 6) + opt(4, struct.pack(order + "Q", 9)) + end)
    return data


CAPTURE_WORDS = (
    section_block(b""),
    block(1, struct.pack("<HHI", LINKTYPE_ENVELOPE, 0, 0)),
    block(6, struct.pack("<IIIII", 0, 0, 0, 0, 0)),
    block(5, struct.pack("<III", 0, 0, 0)),
    option(1, b"comment"), option(2, b"\1\0\0\0"), option(9, b"\xff"), option(9, b"\x7f"), option(14, b"\xff" * 8),
    option(0, b""), b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d", b"\x0a\x0d\x0d\x0a", b"\xff\xff\xff\xff", b"\xff" * 8,
    option(2989, struct.pack("<I", 32473) + b"no time"), bytes(4), bytes(16),
)  # fmt: skip

# --- texts -----------------------------------------------------------------------------------------------------------


def _texts() -> Iterator[bytes]:
    for path in sorted((TESTS / "data").iterdir()):
        if path.suffix in (".txt", ".log"):
            yield path.read_bytes()[:MOST_BYTES]
    for path in sorted((TESTS / "vectors").glob("*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        for part in list(_parts(lines[1:], 5))[:8]:
            yield b"".join([lines[0], *(line for line in part if len(line) < MOST_BYTES)])
    yield from (_simpletrace(order) for order in "<>")


def _simpletrace(order: str) -> bytes:
    def event(number: int, *args: int, text: bytes = b"") -> bytes:
        body = b"".join(struct.pack(order + "Q", arg) for arg in args) + text
        return struct.pack(order + "QQQII", 1, number, 5_000_000_000, 24 + len(body), 77) + body

    data = SIMPLETRACE_HEAD + struct.pack(order + "QQ", SIMPLETRACE_MAGIC, 4)
    for number, name in enumerate((b"kvm_handle_papr_hcall", b"spapr_vio_h_reg_crq", b"other")):
        data += struct.pack(order + "QQI", 0, number, len(name)) + name
    data += event(0, 0x3EC) + event(1, 0x71000000, 0x1000, 0x1000) + event(2, 1) + event(1, text=b"abc")
    return data + event((1 << 64) - 2, 7) + event(0)


def _imported_lines() -> Iterator[bytes]:
    yield b'{"source": "tracefs", "cpu": 3, "time": 57.1, "opcode": "0x3ec", "name": "H_SCM_BIND_MEM", "args": ["0x1", null], "rc": 0, "outs": {"r4": "0x1"}, "note": "", "took": 0.1}'  # fmt: skip  # noqa: E501
    yield b'{"source": "tracefs", "cpu": 3, "time": null, "lost": 4}'
    yield b'{"source": "dmesg", "time": 1.5, "crq_in": "c0020100000000000000000000000000", "note": ""}'
    yield b'{"source": "qemu-log", "time": null, "event": "spapr_vio_x", "values": {"reg": "0x71000000"}, "note": ""}'


TEXT_WORDS = (
    *(b"\r\n", b"\n", b"\0", b"{", b"}", b"[", b"]", b'"', b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-0"),
    *(b"hcall_entry: opcode=", b"hcall_exit: opcode=4 retval=", b"[000]", b"CPU:1 [LOST 5 EVENTS]\n", b"H_CEDE"),
    *(b"kvm_hcall_enter: VCPU 0: hcall=", b"kvm_hcall_exit: VCPU 0: ret=RESUME_GUEST hcall_rc=", b"PERF_RECORD_LOST"),
    *(b"hypercall r3=", b" r4=", b"Unimplemented SPAPR hcall 0x", b"Hypercall made with MSR[PR]=1\n", b"papr_scm: "),
    *(b"spapr_", b"kvm_handle_papr_hcall ", b"ibmvmc: ", b"ibmvmc 30000000: ", b"h_copy_rdma(", b"rc = 0x", b"@"),
    *(b"op=", b" a0=0x1", b" rc=0x0", b" o0=0x2", b"(__trace_hcall_entry+0x0/0x9)", b"# tracer: nop\n", b"cpus=4\n"),
    *(b'{"meta": {"schema": "pvnet-hcall-trace/1"}}\n', b'{"meta": {"schema": "pvnet-vmc-transcript/1"}}\n'),
    *(b'"opcode"', b'"hcall"', b'"args"', b'"rc"', b'"outs"', b'"after"', b'"from"', b'"crq"', b'"crq_in"', b'"app"'),
    *(b'"mark"', b'"observe"', b'"raised"', b'"slots"', b'"t"', b'"n"', b'"meta"', b'"0x1"', b"\\ud800", b"\\u0000"),
    *(b'"partition"', b'"hypervisor"', b'"0xffffffffffffffffff"', b'"r4"', b'"r\xc2\xb2"', b"2026-11-16T10:00:00Z"),
)  # fmt: skip

# --- the rest --------------------------------------------------------------------------------------------------------

_ARP = bytes.fromhex("ffffffffffff02000000000108060001080006040001020000000001 0a4d0001 000000000000 0a4d0002")
_IP = bytes.fromhex("0200000000020200000000010800 4500001c00000000400100000a4d00010a4d0002 0800f7ff00000000")
_TAGGED = bytes.fromhex("0200000000020200000000018100 0005 86dd 6000000000083a400000000000000000") + bytes(40)
FRAMES = (_ARP, _IP, _TAGGED, bytes(14))

FILTERS = tuple(
    text.encode()
    for text in (
        "vmc.type == OPEN and node == lpar1",
        "hcall.opcode == 0x3ec or hcall.opcode == H_SEND_CRQ",
        "crq and not link",
        "time > 1.5 && time <= 3",
        'summary ~ "H_REG" || crq.element ~ c001',
        "vfio.flags & 0x20",
        "vmc.type in {OPEN, CLOSE, 3}",
        "!(kind == hcall_reply or (length >= 100 and call != 0))",
        "((((pvnet.hcall.rc < 0))))",
        "direction == out and channel == 'crq' and problem",
    )
)
FILTER_WORDS = (
    *b"and or not in == != < <= > >= ~ & && || ! ( ) { } \" ' \\ \\' 0x 1e309 nan -inf 1_0".split(),
    *b"time number node kind reply problem comment trace summary vmc.type crq.element hcall.opcode vfio.flags".split(),
    *(
        b"0xffffffffffffffffffff",
        b" ",
        b",",
        b"\0",
        b"\xc3\xa4",
        b"\xd9\xa1",
        b"\xe2\x80\xa8",
        b"()" * 80,
        b"(" * 80,
        b"not " * 80,
    ),
)


def message(command: int, payload: bytes = b"", ident: int = 0, flags: int = 0) -> bytes:
    return b"".join(bytes(part) for part in command_parts(ident, command, payload, flags=flags))


VERSION = message(Command.VERSION, encode_version(Capabilities(max_msg_fds=8, write_multiple=True)))


def _scripts() -> Iterator[bytes]:
    """Conversations with the sample device; the low bits of an id say which descriptors come with a message."""
    info = [message(Command.DEVICE_GET_INFO, struct.pack("<4I", 16, 0, 0, 0))]
    info += [message(Command.DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, n, 0, 0, 0)) for n in range(4)]
    info += [message(Command.DEVICE_GET_IRQ_INFO, struct.pack("<4I", 16, 0, n, 0)) for n in range(3)]
    io_fds = [message(Command.DEVICE_GET_REGION_IO_FDS, struct.pack("<4I", 16, 0, 2, 0))]
    maps = [message(Command.DMA_MAP, dma(0x1000 * n, 0x1000), 0x2 if n % 2 else 0) for n in range(4)]
    maps += [message(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 0x1000, 0x1000))]
    maps += [message(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0))]
    irq = [message(Command.DEVICE_SET_IRQS, irqs(0x24, 0, 0, 1), 0x1)]
    irq += [message(Command.DEVICE_SET_IRQS, irqs(0x24, 1, 0, 2), 0x5)]
    irq += [message(Command.DEVICE_SET_IRQS, irqs(0x22, 1, 0, 2, b"\1\1")), message(Command.DEVICE_SET_IRQS, irqs(0x21, 0, 0, 0))]  # fmt: skip  # noqa: E501
    registers = struct.pack("<QQQ", 0x0, 64, 0x1000)
    work = [message(Command.REGION_WRITE, access(0, 0, 24, registers))]
    work += [message(Command.REGION_WRITE, access(24, 0, 1, bytes([n])), flags=0x10 * (n % 2)) for n in range(1, 7)]
    work += [message(Command.REGION_READ, access(n * 8, 0, 8)) for n in range(4)]
    work += [message(Command.REGION_READ, access(0, 7, 64)), message(Command.REGION_READ, access(0, 2, 4096))]
    multi = [message(Command.REGION_WRITE_MULTI, struct.pack("<Q", 2) + struct.pack("<QII8s", 0, 1, 4, b"abcd") * 2)]
    feature = [message(Command.DEVICE_FEATURE, struct.pack("<II", 16, flags | kind) + bytes(8)) for flags in (0x10000, 0x20000, 0x50000) for kind in (1, 2, 6, 7, 8, 9, 10)]  # fmt: skip  # noqa: E501
    feature += [message(Command.DEVICE_FEATURE, struct.pack("<IIII", 16, 0x20002, state, 0)) for state in (1, 3, 2, 4, 6)]  # fmt: skip  # noqa: E501
    migration = [message(Command.MIG_DATA_READ, struct.pack("<II", 8, 64)), message(Command.MIG_DATA_WRITE, struct.pack("<II", 12, 4) + b"abcd")]  # fmt: skip  # noqa: E501
    answers = [message(Command.DMA_READ, struct.pack("<QQ", 0, 64) + bytes(64), n, 1) for n in range(3)]
    answers += [message(Command.DMA_WRITE, struct.pack("<QQ", 0, 64), n, 1) for n in range(3)]
    groups = [info, io_fds + maps, maps[:4] + irq + work + answers, multi + feature, feature + migration + [message(Command.DEVICE_RESET)]]  # fmt: skip  # noqa: E501
    for group in groups:
        yield VERSION + b"".join(group)


VFIO_WORDS = (VERSION, *(struct.pack("<HHII", 1, int(command), 16, 0) + bytes(4) for command in Command), bytes(16))

RULES = (
    b'defaults = false\nignore = ["*.time", "hcall_reply.outs"]\nskip = ["management"]\n',
    b'exact = ["vbus.*"]\n[same]\nhandle = ["device_reply.handle", "device_io.handle"]\n',
)


def _parts(items: list[bytes], size: int) -> Iterable[list[bytes]]:
    return (items[at : at + size] for at in range(0, len(items), size))
