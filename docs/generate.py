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
from pathlib import Path
from typing import Any

from pvnet.cli.main import VERBS
from pvnet.papr import crq_link
from pvnet.papr import errno as errno_module
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.signatures import SIGNATURES
from pvnet.runtime.topology import Topology, json_schema
from pvnet.vmc import hypervisor_tables as hv
from pvnet.vmc.buffer_pool import HYPERVISOR_TABLE, PARTITION_TABLE, BufferTable
from pvnet.vmc.chardev import REQUEST_ERRNO
from pvnet.vmc.connection import HmcAction, hmc_table
from pvnet.vmc.diagrams import state_diagram
from pvnet.vmc.dialect import DIALECTS, HARDENED, LINUX, Clamp, Dialect
from pvnet.vmc.partition import LinkAction, link_table
from pvnet.vmc.router import RouterRc, RouterService

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "docs" / "vmc.md", ROOT / "docs" / "topology.md", ROOT / "docs" / "cli.md")
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SOURCES_OF_DECISIONS = {
    "vmc": ("partition", "connection", "sessions", "chardev", "buffer_pool", "hypervisor", "router"),
    "papr": ("crq", "crq_queue", "crq_link", "crq_device", "ring", "vio", "rdma", "tce", "retry", "platform"),
}
UNITS = {"memory": lambda value: f"{value >> 20}MiB", "unit": hex}
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


def diagram(states: Table, hide: Enum) -> str:
    """Draw a state table; what happens alike in every state is a sentence below the drawing."""
    everywhere: dict[Any, tuple[Any, Any]] = {}
    for trigger in dict.fromkeys(trigger for _, trigger in states):
        rows = [states[state, trigger] for state in dict.fromkeys(s for s, _ in states) if (state, trigger) in states]
        if len(rows) == len({s for s, _ in states}) and len(set(rows)) == 1 and rows[0][0] is not hide:
            everywhere[trigger] = rows[0]
    drawn = {key: row for key, row in states.items() if key[1] not in everywhere}
    text = f"```mermaid\n{state_diagram(drawn, hide=frozenset({hide}))}```\n"
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
    """Return what is written below the fields of a dataclass."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
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


def decisions() -> str:
    """Collect what the modules say that they decided where the sources are silent or disagree."""
    lines = []
    for module in (
        ROOT / "pvnet" / room / f"{name}.py" for room, names in SOURCES_OF_DECISIONS.items() for name in names
    ):
        text = ast.get_docstring(ast.parse(module.read_text())) or ""
        for paragraph in text.split("\n\n"):
            found = re.match(r"(?:Doubts? decided|Decided here)(?:\s*\(.*?\))?[.:]\s+(.*)", paragraph, re.DOTALL)
            if found:
                said = re.sub(r"^[A-Za-z]+(?![\w(])", lambda word: word[0].capitalize(), plain(found[1]))
                lines.append(f"- `{module.relative_to(ROOT)}`: {said}\n")
    return "".join(lines)


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
        return "tables"
    kind = {"string": "text", "boolean": "true or false", "integer": "integer", "number": "number"}[field["type"]]
    low = f"above {field['exclusiveMinimum']:g}" if "exclusiveMinimum" in field else ""
    low = f"{field['minimum']:g}" if "minimum" in field else low
    if "maximum" in field:
        joint = ", to" if low.startswith("above") else " to"
        kind += f", {low}{joint} {field['maximum']:g}"
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
        "BrokerConfig": "[broker]",
        "HypervisorConfig": "[hypervisor]",
        "HypervisorVmc": "[hypervisor.vmc]",
        "PartitionConfig": "[[partition]]",
        "PartitionVmc": "[partition.vmc]",
        "CrqPair": "[[crq]]",
        "ManagerConfig": "[manager]",
        "Restart": "restart = { ... }",
    }
    assert set(headings) == set(schema["$defs"]), "a model without a heading"
    assert set(schema["properties"]) == {"lab", "broker", "hypervisor", "partition", "crq", "manager"}
    text = f"{plain(Topology.__doc__ or '')}\n"
    for model, heading in headings.items():
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
    "decisions": decisions,
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
