# ruff: noqa: INP001
"""Write the parts of the documents that are drawn from the program: ``python docs/generate.py [--check]``.

A document names each part between two comments; what stands between them is replaced::

    <!-- generated: NAME -->
    <!-- end -->

``--check`` changes nothing and exits with 1 if a document is not what the program says today (a test runs this).
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from itertools import pairwise
from pathlib import Path
from struct import Struct, calcsize
from textwrap import wrap
from typing import Any

import pvnet_services.mdev_migration
from pvnet.capture import expect, pcapng, pvcap
from pvnet.capture import filter as capture_filter
from pvnet.capture import hcall_trace as trace_lines
from pvnet.capture import transcript as vmc_transcript
from pvnet.capture.decode import FIELDS, FieldSpec
from pvnet.capture.importers import calls as imported_calls
from pvnet.capture.importers import simpletrace, tracepoints
from pvnet.cli import mdev as mdev_cli
from pvnet.cli.hcall import support_matrix
from pvnet.cli.main import VERBS
from pvnet.mdev import (
    ccw_regions,
    ccw_stream,
    framebuffer,
    framebuffer_migration,
    migration,
    pmem,
    serial_card,
    serial_stream,
    tree,
    uart16550,
    vfio_features,
)
from pvnet.mdev import events as mdev_events
from pvnet.mdev.ccw_states import TABLE as CCW_TABLE
from pvnet.mdev.ccw_states import Event as CcwEvent
from pvnet.mdev.ccw_states import State as CcwState
from pvnet.mdev.vfio_user_server import ServerLimits
from pvnet.novalink import catalog as novalink_catalog
from pvnet.papr import crq_link
from pvnet.papr import errno as errno_module
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.retry import RetryLimits
from pvnet.papr.signatures import SIGNATURES
from pvnet.ring import event_signal, roles
from pvnet.ring import layout as ring_layout
from pvnet.runtime.topology import Topology, json_schema
from pvnet.scm import labels, pdsm, stats
from pvnet.scm.calls import Health
from pvnet.scm.device import ScmDeviceConfig, device_node
from pvnet.scm.guest import GUEST_TABLE, ScmAction
from pvnet.scm.guest_interface import GUEST_POLICIES, ScmCommand, ScmGuestPolicy
from pvnet.scm.profiles import PROFILES, ScmProfile
from pvnet.vbus import echo, link_codec, venet_layout, venet_south
from pvnet.vbus import layout as vbus_layout
from pvnet.vbus.offload import DropReason
from pvnet.vfio import lines
from pvnet.vmc import hypervisor_tables as hv
from pvnet.vmc.buffer_pool import HYPERVISOR_TABLE, PARTITION_TABLE, BufferTable
from pvnet.vmc.chardev import REQUEST_ERRNO
from pvnet.vmc.connection import HmcAction, hmc_table
from pvnet.vmc.diagrams import state_diagram
from pvnet.vmc.dialect import DIALECTS, HARDENED, LINUX, Clamp, Dialect
from pvnet.vmc.partition import LinkAction, link_table
from pvnet.vmc.router import RouterRc, RouterService

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = tuple(
    ROOT / "docs" / name
    for name in (
        "vmc.md",
        "scm.md",
        "vbus.md",
        "network.md",
        "mdev.md",
        "novalink.md",
        "capture.md",
        "topology.md",
        "cli.md",
    )
)
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
DECISION = re.compile(r"(?:(?:A )?[Dd]oubts? decided|Decided(?: here)?)(?:\s*\(.*?\))?[.:]\s+(.*)", re.DOTALL)
SOURCES_OF_DECISIONS = {
    "vmc": ("partition", "connection", "sessions", "repair", "chardev", "buffer_pool", "hypervisor", "router"),
    "papr": ("crq", "crq_queue", "crq_link", "crq_device", "ring", "vio", "rdma", "tce", "retry", "platform"),
}
SOURCES_OF_SCM_DECISIONS = {
    "scm": ("hypervisor", "bind_calls", "device", "guest", "guest_calls", "guest_interface", "labels"),
    "papr": ("continuation", "drc", "devicetree"),
    "runtime": ("scm_storage",),
}
SOURCES_OF_VBUS_DECISIONS = {
    "ring": ("layout", "ioq", "event_signal", "roles"),
    "vbus": ("layout", "south", "north", "venet_checks", "venet_connection", "venet_north"),
}
SOURCES_OF_MDEV_DECISIONS = {"mdev": ("ccw_translate",)}
SOURCES_OF_CAPTURE_DECISIONS = {"capture": ("roles",)}
SHOWN_NAMES = 12
"""How many names of a field's values are listed."""
UNITS: Mapping[str, Callable[[int], str]] = {
    **dict.fromkeys(("memory", "size", "block_size"), lambda value: f"{value >> 20}MiB"),
    "label_size": lambda value: f"{value >> 10}KiB",
    "unit": hex,
}
"""How a number that may also be written as text is shown."""

Table = Mapping[tuple[Any, Any], tuple[Any, Any]]


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def plain(text: str) -> str:
    """Turn the mark-up of docstrings into Markdown, on one line."""
    text = re.sub(r":[a-z]+:`~?(?:[a-z_.]*\.)?([^`]+)`", r"`\1`", " ".join(text.split()))
    return re.sub(r"(?<=[.)]) Spec: [^;]*$", "", text.replace("``", "`"))


# --- state tables -----------------------------------------------------------------------------------------------------


def diagram(states: Table, *hide: Enum) -> str:
    """Draw a state table without the actions to hide; what happens alike in every state is a table below."""
    everywhere: dict[Any, tuple[Any, Any]] = {}
    for trigger in dict.fromkeys(trigger for _, trigger in states):
        rows = [states[state, trigger] for state in dict.fromkeys(s for s, _ in states) if (state, trigger) in states]
        if len(rows) == len({s for s, _ in states}) and len(set(rows)) == 1 and rows[0][0] not in hide:
            everywhere[trigger] = rows[0]
    drawn = {key: row for key, row in states.items() if key[1] not in everywhere}
    text = f"```mermaid\n{state_diagram(drawn, hide=frozenset(hide))}```\n"
    if everywhere:
        alike = [(f"`{t.name.lower()}`", str(a.value), f"`{s.name.lower()}`") for t, (a, s) in everywhere.items()]
        text += "\nIn every state alike:\n\n" + table(("trigger", "action", "next state"), alike)
    return text


def buffer_diagram(states: BufferTable) -> str:
    """Draw a buffer table, whose rows have no action."""
    lines = ["stateDiagram-v2", "    [*] --> absent"]
    lines += [f"    {s.name.lower()} --> {after.name.lower()}: {t.name.lower()}" for (s, t), after in states.items()]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def linux_rows() -> str:
    """List the rows of both partition tables in which the Linux driver differs from the default."""
    rows = []
    for name, make in (("link", link_table), ("connection", hmc_table)):
        ours: Table = make(HARDENED)
        theirs: Table = make(LINUX)
        for key, row in ours.items():
            if theirs[key] != row:
                told = [f"{a.value}, `{s.name.lower()}`" for a, s in (row, theirs[key])]
                rows.append((name, f"`{key[0].name.lower()}`", f"`{key[1].name.lower()}`", *told))
    return table(("table", "state", "trigger", "`hardened`", "`linux`"), rows)


# --- dialects ---------------------------------------------------------------------------------------------------------


def field_texts(cls: type[Any]) -> dict[str, str]:
    """Return what is written below the fields of a dataclass or the members of an enumeration."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = text
    return texts


def dialect_switches() -> str:
    """List what the dialects do: one row per switch."""
    texts = field_texts(Dialect)
    rows = [
        (f"`{f.name}`", *("yes" if getattr(d, f.name) else "no" for d in DIALECTS.values()), plain(texts[f.name]))
        for f in fields(Dialect)
        if f.name in texts
    ]
    return table(("switch", *(f"`{name}`" for name in DIALECTS), "when yes"), rows)


def dialect_numbers() -> str:
    """List the status numbers, limits and timeouts of the dialects."""
    rows = [
        (f"status `{name}`", *(str(getattr(d.status, name)) for d in DIALECTS.values()))
        for name in ("bad_index", "bad_buffer", "closed", "failure", "none_to_remove")
    ]
    for name in ("max_hmcs", "pool_size", "max_mtu"):
        clamps: list[Clamp] = [getattr(d, name) for d in DIALECTS.values()]
        rows.append((f"limits of `{name}`", *(f"{clamp.low} to {clamp.high}" for clamp in clamps)))
    for name in ("init_s", "capabilities_s", "open_s", "close_s"):
        times = [getattr(d.timeouts, name) for d in DIALECTS.values()]
        rows.append((f"timeout `{name}`", *("none" if t is None else f"{t:g} s" for t in times)))
    return table(("number", *(f"`{name}`" for name in DIALECTS)), rows)


# --- other tables of the VMC document ---------------------------------------------------------------------------------


def request_errno() -> str:
    """List the results of ioctl REQUESTVMC."""
    names = {
        number: name for name, number in vars(errno_module).items() if name.startswith("E") and isinstance(number, int)
    }
    rows = [(str(HcallRc(rc)), f"-{names[-errno]}" if errno else "0") for rc, errno in REQUEST_ERRNO.items()]
    return table(("H_REQUEST_VMC", "REQUESTVMC"), rows)


def hcalls() -> str:
    """List the hcalls of virtual I/O with their arguments and documented return codes."""
    return hcall_table(opcode for opcode in SIGNATURES if not opcode.name.startswith("H_SCM_"))


def hcall_table(opcodes: Iterable[HcallOpcode]) -> str:
    """List hcalls with their arguments and return codes."""
    rows = []
    for signature in map(SIGNATURES.__getitem__, opcodes):
        inputs = ", ".join(f"{a.name} ({a.unit})" for a in signature.inputs) or "none"
        outputs = ", ".join(f"{a.name} ({a.unit})" for a in signature.outputs) or "none"
        codes = ", ".join(HcallRc(rc).name.removeprefix("H_") for rc in signature.rcs)
        rows.append((f"`{signature.name}`", f"{int(signature.opcode):#x}", inputs, outputs, codes))
    return table(("hcall", "opcode", "r4 upward", "returns in r4 upward", "documented codes (H_...)"), rows)


def router_codes() -> str:
    """List the router's return codes and when they are given."""
    given = re.findall(r"^ +(\S.*?) {2,}([0-9A-F]{4})$", RouterService.__doc__ or "", re.MULTILINE)
    rows = []
    for code in RouterRc:
        when = "; ".join(plain(text) for text, number in given if int(number, 16) == code)
        rows.append((f"{int(code):04X}", code.name.lower(), when or ("success" if code == 0 else "on request only")))
    return table(("code", "name", "given when"), rows)


def decisions(sources: Mapping[str, Sequence[str]]) -> str:
    """Collect what the modules say that they decided where the sources are silent or disagree."""
    lines = []
    for module in (ROOT / "pvnet" / room / f"{name}.py" for room, names in sources.items() for name in names):
        text = ast.get_docstring(ast.parse(module.read_text())) or ""
        for paragraph in text.split("\n\n"):
            found = DECISION.match(paragraph)
            if found:
                said = re.sub(r"^[A-Za-z]+(?![\w(])", lambda word: word[0].capitalize(), plain(found[1]))
                lines.append(f"- `{module.relative_to(ROOT)}`: {said}\n")
    return "".join(lines)


# --- the SCM document -------------------------------------------------------------------------------------------------


POLICY_TEXTS = {
    "health_cache_s": "how long a health answer is good enough for the flags file, in seconds",
    "max_queued": "commands that may wait; beyond it EBUSY",
    "max_flushes": "flushes that may run side by side; beyond it EBUSY",
}
"""What the class does not say about its own fields."""
NODE_PROPERTIES = {
    "compatible": ("text", "the driver binds to this or `ibm,pmemory-v2`"),
    "device_type": ("text", "-"),
    "reg": ("u32", "DRC index"),
    "ibm,my-drc-index": ("u32", "DRC index; required"),
    "ibm,block-size": ("u64", "bytes, a power of two; required"),
    "ibm,number-of-blocks": ("u64", "blocks are numbered 0 to this minus 1; required"),
    "ibm,unit-guid": ("text", "a UUID; its halves, read little-endian, are the interleave-set cookies; required"),
    "ibm,metadata-size": ("u32", "bytes of the metadata area; absent: 0"),
    "ibm,pmem-application": ("text", "-"),
    "ibm,cache-flush-required": ("empty", "absent: the region is volatile"),
    "ibm,associativity": ("u32 list", "four levels; the last one is the NUMA node"),
    "ibm,hcall-flush-required": ("empty", "only of `spapr-nvdimm`: flush by H_SCM_FLUSH"),
    "ibm,persistence-failed-count": ("u64", "dirty shutdowns; only when configured"),
}
"""Type and meaning of the properties of a device's node."""


def hex_of(name: str, value: object) -> str:
    """Show a field of a profile."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "all"
        case Mapping():
            return ", ".join(f"{HcallOpcode(op).name.removeprefix('H_SCM_')} {token:#x}" for op, token in value.items())
        case int() if name.endswith("_busy"):
            return HcallRc(value).name
        case int() if name == "health_valid":
            return f"{value:#018x}"
    return str(value)


def scm_profiles() -> str:
    """List what the profiles do: one row per hcall that only one has, one per switch."""
    texts = field_texts(ScmProfile)
    profiles = PROFILES.values()
    rows = [
        (f"`{HcallOpcode(opcode).name}`", *("yes" if opcode in p.calls else "H_FUNCTION" for p in profiles), "-")
        for opcode in sorted({opcode for p in profiles for opcode in p.calls})
        if not all(opcode in p.calls for p in profiles)
    ]
    for field in fields(ScmProfile):
        if field.name not in {"name", "calls"}:
            shown = [hex_of(field.name, getattr(p, field.name)) or "-" for p in profiles]
            rows.append((f"`{field.name}`", *shown, plain(texts[field.name])))
    return table(("switch", *(f"`{name}`" for name in PROFILES), "meaning"), rows)


def scm_policies() -> str:
    """List the guest's policies: one row per field."""
    texts = dict(POLICY_TEXTS)
    for names, text in re.findall(r"^(``.*``)\n((?: +.*\n?)+)", inspect.getdoc(ScmGuestPolicy) or "", re.MULTILINE):
        texts |= dict.fromkeys(re.findall(r"``(\w+)``", names), plain(text))

    def shown(value: object) -> str:
        match value:
            case RetryLimits(max_tries=tries, seconds=seconds):
                return "for ever" if tries is None and seconds is None else f"{tries} tries, {seconds:g} s"
            case bool():
                return "yes" if value else "no"
            case None:
                return "never"
        return f"{value:g}"

    rows = [
        (f"`{f.name}`", *(shown(getattr(p, f.name)) for p in GUEST_POLICIES.values()), texts[f.name])
        for f in fields(ScmGuestPolicy)
        if f.name != "name"
    ]
    return table(("field", *(f"`{name}`" for name in GUEST_POLICIES), "meaning"), rows)


def scm_health() -> str:
    """List the health bits."""
    texts = field_texts(Health)
    rows = []
    for bit in Health:
        number = 63 - (int(bit).bit_length() - 1)
        valid = ", ".join(f"`{name}`" for name, p in PROFILES.items() if p.health_valid & bit)
        name = (bit.name or "").lower()
        meaning = plain(texts.get(bit.name or "", f"{name.capitalize()}."))
        words = pdsm.flags_text(bit).strip() or "-"
        rows.append((str(number), f"`{int(bit):#018x}`", f"`{name}`", meaning, valid, words))
    return table(("bit", "value", "name", "meaning", "valid in", "words in `papr/flags`"), rows)


def scm_statistics() -> str:
    """List the statistics."""
    texts = field_texts(stats.Statistic)
    rows = [
        (str(number), f"`{s.value.decode().replace(' ', '_')}`", f"`{s.name.lower()}`", texts[s.name])
        for number, s in enumerate(stats.Statistic, 1)
    ]
    return table(("perf config", "id (`_` is a blank)", "name", "meaning"), rows)


def scm_commands() -> str:
    """List the commands of the guest's device file."""
    texts = field_texts(ScmCommand)
    rows = [(f"{int(c):#x}", f"`{c.name}`", plain(texts.get(c.name, "-"))) for c in ScmCommand]
    return table(("ioctl", "name", "data"), rows)


def scm_node() -> str:
    """Show a device's node with every property there is."""
    node = device_node(ScmDeviceConfig("p", 0x90000000, 4, 0x100000000, dirty_shutdowns=0))
    rows = []
    for item in node.properties:
        kind, meaning = NODE_PROPERTIES[item.name]
        match kind:
            case "text":
                value = item.value.rstrip(b"\0").decode()
            case "empty":
                value = ""
            case _:
                step = 8 if kind == "u64" else 4
                numbers = [item.value[at : at + step] for at in range(0, len(item.value), step)]
                value = " ".join(f"{int.from_bytes(number, 'big'):#x}" for number in numbers)
        rows.append((f"`{item.name}`", kind, f"`{value}`" if value else "-", meaning))
    assert len(rows) == len(NODE_PROPERTIES)
    return table(("property", "type", "example", "meaning"), rows)


def drawing(text: str | None) -> str:
    """Return the first drawing of a docstring."""
    found = re.search(r"::\n\n((?:(?: {4}.*)?\n)+)", inspect.cleandoc(text or "") + "\n")
    assert found is not None
    lines = found[1].strip("\n").splitlines()
    return "```text\n" + "".join(f"{line[4:]}\n" for line in lines) + "```\n"


def drawing_and_text(text: str | None) -> str:
    """Return the first drawing of a docstring and the paragraphs below it."""
    drawn, below = drawing(text), inspect.cleandoc(text or "").partition("::\n\n")[2]
    paragraphs = [plain(each) for each in below.split("\n\n") if each[:1] not in {" ", ""}]
    wrapped = [wrap(each, 120, break_on_hyphens=False, break_long_words=False) for each in paragraphs]
    return "\n".join([drawn, *("\n".join(lines) + "\n" for lines in wrapped if not lines[0].startswith("Spec: "))])


# --- vbus and the network ---------------------------------------------------------------------------------------------


TYPES = {"B": "u8", "H": "u16", "I": "u32", "i": "s32", "Q": "u64"}
"""Letters of ``struct`` and what documents call them."""


def struct_fields(layout: Struct, names: Iterable[str]) -> str:
    """List the fields of a structure: name, type and offset; holes are left out."""
    left = iter(names)
    shown = []
    at = 0
    for amount, letter in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        if letter == "x":
            at += int(amount or 1)
            continue
        for _ in range(1 if letter == "s" else int(amount or 1)):
            name = next(left)
            kind = f"char[{amount}]" if letter == "s" else TYPES[letter]
            if name != "pad":
                shown.append(f"{name} {kind} @ {at}")
            at += int(amount or 1) if letter == "s" else calcsize(f"<{letter}")
    assert not list(left)
    assert at == layout.size
    return ", ".join(shown)


def vbus_structures() -> str:
    """List the structures of the bridge."""
    rows = [
        (f"`{record.__name__}`", str(record.size()), struct_fields(record.LAYOUT, [f.name for f in fields(record)]))
        for record in vbus_layout.Record.__subclasses__()
        if record is getattr(vbus_layout, record.__name__)  # and not what it was before it had slots
    ]
    rows.append(("`Event`", str(vbus_layout.EVENT_BYTES), "id u32 @ 0, handle u64 @ 8, type char[128] @ 16"))
    return table(("structure", "bytes", "fields (little endian; holes are zero)"), rows)


def constant_texts(module: Any) -> dict[str, str]:
    """Return what is written below the constants of a module."""
    body = ast.parse(inspect.getsource(module)).body
    texts: dict[str, str] = {}
    for constant, below in pairwise(body):
        match constant, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = text
    return texts


def venet_structures() -> str:
    """List the structures of venet."""
    texts = constant_texts(venet_layout)
    rows = []
    for name, what in (
        ("SG_HEAD", "packet descriptor"),
        ("IOV", "each of its fragments"),
        ("CAPABILITY", "NEGCAP"),
        ("EVENTQ_QUERY", "EVQQUERY"),
        ("L4RO_QUERY", "L4ROQUERY"),
        ("EVENT_HEAD", "event, its head"),
    ):
        layout: Struct = getattr(venet_layout, name)
        names = texts[name].rstrip(".").split(", ")
        rows.append((what, str(layout.size), struct_fields(layout, names)))
    head = ["flags", "size", "id"]
    for name, what, rest in (
        ("LINKSTATE_EVENT", "event LINKSTATE", ["state"]),
        ("TXC_EVENT", "event TXC", ["txqid", "cookie"]),
    ):
        layout = getattr(venet_layout, name)
        rows.append((what, str(layout.size), struct_fields(layout, head + rest)))
    return table(("structure", "bytes", "fields"), rows)


def venet_groups() -> str:
    """List the capability groups with what is offered."""
    bits = {
        venet_layout.CapabilityGroup.SG: venet_layout.SgCapability,
        venet_layout.CapabilityGroup.EVENTQ: venet_layout.EventCapability,
        venet_layout.CapabilityGroup.L4RO: venet_layout.SgCapability,
    }
    rows = []
    for group, offer in venet_layout.OFFER.items():
        named = ", ".join(f"{bit.name} {int(bit)}" for bit in bits[group] if int(bit) & offer)
        rows.append((str(int(group)), group.name, f"{offer:#04x}", named))
    return table(("gid", "group", "offered and asked for", "bits"), rows)


def ring_roles() -> str:
    """List the four ends of a ring with what each can do."""
    rows = []
    for role in (roles.TxNorth, roles.TxSouth, roles.RxNorth, roles.RxSouth):
        for name, operation in vars(role).items():
            if not name.startswith("_") and (inspect.isfunction(operation) or isinstance(operation, property)):
                rows.append((f"`{role.__name__}`", f"`{name}`", plain(inspect.getdoc(operation) or "")))
    return table(("role", "operation", "what it does"), rows)


def rst_table(text: str | None, header: tuple[str, ...] | None = None) -> str:
    """Turn the first table of a docstring into Markdown; ``header``: it has none of its own."""
    lines = inspect.cleandoc(text or "").splitlines()
    ruled = [number for number, line in enumerate(lines) if re.fullmatch(r"=+(?: +=+)+", line)]
    spans = [(found.start(), found.end()) for found in re.finditer("=+", lines[ruled[0]])]
    spans[-1] = (spans[-1][0], 1 << 10)

    def cells(line: str) -> tuple[str, ...]:
        return tuple(plain(line[start:end].strip()) for start, end in spans)

    rows: list[tuple[str, ...]] = []
    first = 0 if header is not None else 1
    for row in map(cells, lines[ruled[first] + 1 : ruled[first + 1]]):
        if row[0] or not rows:
            rows.append(row)
        else:  # it goes on
            rows[-1] = tuple(f"{above} {below}".strip() for above, below in zip(rows[-1], row, strict=True))
    return table(header or cells(lines[ruled[0] + 1]), rows)


def drop_reasons() -> str:
    """List why a switch drops a frame."""
    texts = field_texts(DropReason)
    return table(("reason", "meaning"), [(f"`{reason}`", plain(texts[reason.name])) for reason in DropReason])


# --- mediated devices -------------------------------------------------------------------------------------------------


def mdev_support(*kinds: str) -> str:
    """List what of vfio-user is answered, as ``pvnet supported`` does."""
    rows = [(row["number"], f"`{row['name']}`", row["state"]) for row in support_matrix() if row["kind"] in kinds]
    return table(("number", "name", "answered"), rows)


def mdev_limits() -> str:
    """List what a server takes of its client."""
    texts = field_texts(ServerLimits)
    rows = [(f"`{f.name}`", f"{getattr(ServerLimits(), f.name):,}", plain(texts[f.name])) for f in fields(ServerLimits)]
    return table(("limit", "value", "of"), rows)


def mdev_hops() -> str:
    """List the next state on the way to another one."""
    states = list(dict.fromkeys(at for at, _ in migration.NEXT_HOP))
    rows = []
    for at in states:
        hops = [migration.NEXT_HOP.get((at, to)) for to in states]
        rows.append((f"`{at.name}`", *("EINVAL" if hop is None else f"`{hop.name}`" for hop in hops)))
    return table(("from, to", *(f"`{to.name}`" for to in states)), rows)


def ccw_states() -> str:
    """List what a channel-I/O device does in each state."""
    rows = [
        (f"{int(state)} `{state.name}`", *(CCW_TABLE[state, event].value.replace("_", " ") for event in CcwEvent))
        for state in CcwState
    ]
    return table(("state", *(event.value.replace("_", " ") for event in CcwEvent)), rows)


def mdev_verbs() -> str:
    """List the verbs of ``pvnet mdev``."""
    rows = []
    for command in mdev_cli.app.registered_commands:
        function = command.callback
        assert function is not None
        text = (inspect.getdoc(function) or "").partition("\n\n")[0]
        rows.append((f"`pvnet mdev {command.name or function.__name__}`", plain(text)))
    return table(("verb", "what it does"), rows)


# --- captures ---------------------------------------------------------------------------------------------------------


def names_of(spec: FieldSpec) -> str:
    """List what a field's numbers are called, or how many of them have names."""
    names = list(dict.fromkeys(f"`{name}`" for name in spec.values.values()))
    many = f"{len(names)} names, such as {', '.join(names[:3])}"
    return (many if len(names) > SHOWN_NAMES else ", ".join(names)) or "-"


def capture_fields() -> str:
    """List the fields by layer; those that only have a name and a type in one line below."""
    layers: dict[str, list[FieldSpec]] = {}
    for name, spec in sorted(FIELDS.items()):
        layers.setdefault(name.partition(".")[0], []).append(spec)
    text = ""
    for layer, specs in layers.items():
        told = [spec for spec in specs if spec.help or spec.values]
        rows = [
            (f"`{s.name}`", f"{s.type}{' (bits)' if s.flags else ''}", s.help or "-", names_of(s))
            for s in told
        ]  # fmt: skip
        text += f"**{layer}**\n\n"
        if rows:
            text += table(("field", "type", "meaning", "names of its values"), rows) + "\n"
        others = ", ".join(f"`{spec.name}` ({spec.type})" for spec in specs if spec not in told)
        if others:
            text += f"{'Also: ' if rows else ''}{others}\n\n"
    return text.rstrip("\n") + "\n"


def record_fields() -> str:
    """List what every record has."""
    return table(("name", "meaning"), [(f"`{n}`", text) for n, text in capture_filter.RECORD_FIELDS.items()])


# --- topology, command line -------------------------------------------------------------------------------------------


def value_of(field: Mapping[str, Any]) -> str:
    """Say what a key of the topology takes."""
    if "anyOf" in field:
        kinds = [kind for kind in field["anyOf"] if kind.get("type") != "null"]
        if all("$ref" in kind for kind in kinds):
            return "table"
        return " or ".join(value_of(kind) for kind in kinds)
    if "enum" in field:
        return ", ".join(f'`"{value}"`' for value in field["enum"])
    if "$ref" in field:
        return "table"
    if field["type"] == "array":
        return "list of texts" if field["items"].get("type") == "string" else "tables"
    if field["type"] == "object":
        return "table of texts"
    kind = {"string": "text", "boolean": "true or false", "integer": "integer", "number": "number"}[field["type"]]
    low = f"above {field['exclusiveMinimum']:g}" if "exclusiveMinimum" in field else ""
    low = f"{field['minimum']:g}" if "minimum" in field else low
    if "maximum" in field:
        joint = ", to" if low.startswith("above") else " to"
        high = field["maximum"]
        kind += f", {low}{joint} {high if isinstance(high, int) else f'{high:g}'}"
    if "pattern" in field:
        kind += f" `{field['pattern']}`"
    return kind


def default_of(name: str, field: Mapping[str, Any], required: list[str]) -> str:
    """Say what holds when a key is left out."""
    if name in required:
        return "required"
    value = field.get("default")
    if value is None:
        return "none"
    if name in UNITS:
        return f'`"{UNITS[name](value)}"`'
    if isinstance(value, dict | list):
        return "defaults" if value else "none"
    return f"`{value!r}`".replace("'", '"').replace("True", "true").replace("False", "false")


def topology_keys() -> str:
    """Describe every table of a topology file and its keys."""
    schema = json_schema()
    headings = {
        "LabConfig": "[lab]",
        "SystemConfig": "[system]",
        "BrokerConfig": "[broker]",
        "HypervisorConfig": "[hypervisor]",
        "HypervisorVmc": "[hypervisor.vmc]",
        "PartitionConfig": "[[partition]]",
        "PartitionVmc": "[partition.vmc]",
        "ProcessorsConfig": "[partition.processors]",
        "ScmConfig": "[[partition.scm]]",
        "VenetConfig": "[[partition.venet]]",
        "VbusDeviceConfig": "[[partition.device]]",
        "SwitchConfig": "[[switch]]",
        "BridgeConfig": "[bridge]",
        "MdevHostConfig": "[[mdev_host]]",
        "MdevParentConfig": "[[mdev_host.parent]]",
        "MdevConfig": "[[mdev_host.mdev]]",
        "CrqPair": "[[crq]]",
        "ManagerConfig": "[manager]",
        "NovalinkConfig": "[novalink]",
        "Restart": "restart = { ... }",
    }
    assert set(headings) >= set(schema["$defs"]), "a model without a heading"
    assert set(schema["properties"]) == {
        *("lab", "system", "broker", "hypervisor", "partition", "switch", "bridge", "mdev_host", "crq", "manager"),
        "novalink",
    }
    text = f"{plain(Topology.__doc__ or '')}\n"
    for model, heading in ((model, heading) for model, heading in headings.items() if model in schema["$defs"]):
        definition = schema["$defs"][model]
        required = definition.get("required", [])
        rows = [
            (f"`{name}`", value_of(f), default_of(name, f, required), plain(f["description"]))
            for name, f in definition["properties"].items()
        ]
        text += f"\n### `{heading}`\n\n{plain(definition['description'])}\n\n"
        text += table(("key", "value", "default", "meaning"), rows)
    return text


def verbs() -> str:
    """List the verbs."""
    return table(("verb", "what it does"), [(f"`{verb.name}`", verb.help) for verb in VERBS])


def novalink_requests() -> str:
    """List the requests of the REST interface."""
    rows = [
        (row.method, f"`{row.path.removeprefix('/rest/api')}`", str(row.tier), row.state, row.note)
        for row in novalink_catalog.CATALOG
    ]
    return table(("method", "path below `/rest/api`", "tier", "answered", "note"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "crq-link": lambda: diagram(crq_link.TRANSITIONS, crq_link.LinkAction.IGNORE),
    "partition-link": lambda: diagram(link_table(HARDENED), LinkAction.IGNORE),
    "partition-connection": lambda: diagram(hmc_table(HARDENED), HmcAction.DROP),
    "partition-buffer": lambda: buffer_diagram(PARTITION_TABLE),
    "hypervisor-link": lambda: diagram(hv.LINK_TABLE, hv.HvLinkAction.IGNORE),
    "hypervisor-index": lambda: diagram(hv.INDEX_TABLE, hv.IndexAction.DROP),
    "hypervisor-buffer": lambda: buffer_diagram(HYPERVISOR_TABLE),
    "linux-rows": linux_rows,
    "dialect-switches": dialect_switches,
    "dialect-numbers": dialect_numbers,
    "request-errno": request_errno,
    "hcalls": hcalls,
    "router-codes": router_codes,
    "decisions": lambda: decisions(SOURCES_OF_DECISIONS),
    "scm-hcalls": lambda: hcall_table(opcode for opcode in SIGNATURES if opcode.name.startswith("H_SCM_")),
    "scm-profiles": scm_profiles,
    "scm-health": scm_health,
    "scm-statistics": scm_statistics,
    "scm-statistics-buffer": lambda: drawing(stats.__doc__),
    "scm-node": scm_node,
    "scm-guest": lambda: diagram(GUEST_TABLE, ScmAction.IGNORE, ScmAction.LATER),
    "scm-commands": scm_commands,
    "scm-pdsm": lambda: drawing(pdsm.__doc__),
    "scm-policies": scm_policies,
    "scm-label-area": lambda: drawing(labels.__doc__),
    "scm-index-block": lambda: drawing(labels.IndexBlock.__doc__),
    "scm-label": lambda: drawing(labels.Label.__doc__),
    "scm-decisions": lambda: decisions(SOURCES_OF_SCM_DECISIONS),
    "vbus-structures": vbus_structures,
    "ring-layout": lambda: drawing(ring_layout.__doc__),
    "ring-layout-newer": lambda: drawing(event_signal.__doc__),
    "ring-roles": ring_roles,
    "echo-functions": lambda: rst_table(echo.__doc__),
    "venet-structures": venet_structures,
    "venet-groups": venet_groups,
    "venet-attributes": lambda: rst_table(venet_south.__doc__),
    "vbus-decisions": lambda: decisions(SOURCES_OF_VBUS_DECISIONS),
    "drop-reasons": drop_reasons,
    "link-header": lambda: rst_table(link_codec.__doc__),
    "mdev-commands": lambda: mdev_support("vfio-user command"),
    "mdev-limits": mdev_limits,
    "mdev-features": lambda: rst_table(vfio_features.__doc__),
    "mdev-hops": mdev_hops,
    "mdev-events": lambda: rst_table(mdev_events.__doc__),
    "mdev-tree": lambda: drawing(tree.__doc__),
    "mdev-lines": lambda: rst_table(lines.__doc__, ("line", "what it is")),
    "mdev-uart": lambda: rst_table(uart16550.__doc__),
    "mdev-serial-types": lambda: rst_table(serial_card.__doc__),
    "mdev-serial-stream": lambda: drawing_and_text(serial_stream.__doc__),
    "mdev-framebuffer": lambda: drawing(framebuffer.__doc__),
    "mdev-framebuffer-stream": lambda: drawing_and_text(framebuffer_migration.__doc__),
    "mdev-pmem": lambda: drawing(pmem.__doc__),
    "mdev-ccw-regions": lambda: drawing(ccw_regions.__doc__),
    "mdev-ccw-states": ccw_states,
    "mdev-ccw-stream": lambda: drawing_and_text(ccw_stream.__doc__),
    "mdev-move": lambda: drawing(pvnet_services.mdev_migration.__doc__),
    "mdev-decisions": lambda: decisions(SOURCES_OF_MDEV_DECISIONS),
    "mdev-verbs": mdev_verbs,
    "capture-blocks": lambda: rst_table(pcapng.__doc__),
    "capture-custom": lambda: rst_table(pvcap.__doc__, ("block, option", "layout")),
    "capture-filter": lambda: drawing(capture_filter.__doc__),
    "capture-record-fields": record_fields,
    "capture-fields": capture_fields,
    "capture-tracepoints": lambda: rst_table(tracepoints.__doc__, ("event", "what it says")),
    "capture-simpletrace": lambda: drawing(simpletrace.__doc__),
    "capture-imported": lambda: drawing(imported_calls.__doc__),
    "capture-trace": lambda: drawing(trace_lines.__doc__),
    "capture-transcript": lambda: drawing(vmc_transcript.__doc__),
    "capture-rules": lambda: drawing(expect.__doc__),
    "capture-decisions": lambda: decisions(SOURCES_OF_CAPTURE_DECISIONS),
    "novalink-requests": novalink_requests,
    "topology-keys": topology_keys,
    "verbs": verbs,
}


def generated(document: str) -> str:
    """Return a document with every part as the program says it today."""
    return PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n{match[3]}", document)


def main(arguments: list[str]) -> int:
    """Write the documents, or compare them."""
    stale = []
    used: set[str] = set()
    for path in DOCUMENTS:
        before = path.read_text()
        used |= {match[2] for match in PART.finditer(before)}
        after = generated(before)
        if after != before:
            stale.append(path.relative_to(ROOT))
            if "--check" not in arguments:
                path.write_text(after)
    unused = sorted(set(PARTS) - used)
    if unused:
        print(f"no document shows: {', '.join(unused)}")
        return 1
    if stale and "--check" in arguments:
        print(f"not up to date: {', '.join(map(str, stale))}; run: python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
