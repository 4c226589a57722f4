"""Runs tshark with our plugin, as a user who is not root (root's tshark loads no Lua), and reads what it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pvnet.capture.decode import FIELDS, Decoded, FieldType
from pvnet.capture.model import Interface
from pvnet.capture.pvcap import CaptureWriter, make_info

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "deploy/wireshark/pvnet.lua"
NOBODY = 65534


@dataclass
class Packet:
    """One packet as tshark shows it."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    """Texts of all fields by name."""

    def ours(self) -> dict[str, list[int | str | bool]]:
        """Values of our fields by their names in :data:`FIELDS`."""
        found: dict[str, list[int | str | bool]] = {}
        for name, texts in self.fields.items():
            spec = FIELDS.get(name.removeprefix("pvnet."))
            if spec is not None and name.startswith("pvnet."):
                found[spec.name] = [_value(spec.type, text) for text in texts]
        return _maps_sorted(found)

    @property
    def broken(self) -> list[str]:
        """Names of items that say that a dissector failed."""
        return [name for name in self.fields if name.startswith(("_ws.malformed", "_ws.lua.error"))]

    @property
    def problems(self) -> list[str]:
        """Names of our expert items."""
        return [name for name in self.fields if name.startswith("pvnet.") and name.endswith(".problem")]


def plain(text: str) -> str:
    """A text without what PDML writes in its own way: escapes, control characters, white space."""
    return re.sub(r"\\x[0-9a-f]{1,2}|\\[^x]|[\s\x00-\x1f\x7f]", "", text)


def _value(kind: FieldType, text: str) -> int | str | bool:
    if kind is FieldType.BOOL:
        return text in ("1", "True")
    if kind is FieldType.STRING:
        return plain(text)
    if kind is FieldType.BYTES:
        return text
    return int(text, 0)


def expected(decoded: Decoded, only: Iterable[str] = ()) -> dict[str, list[int | str | bool]]:
    """What :meth:`Packet.ours` has to be; ``only``: layers.  Ethernet and IP are Wireshark's own."""
    found: dict[str, list[int | str | bool]] = {}
    for item in decoded.fields():
        layer = item.name.partition(".")[0]
        if layer in ("ethernet", "ip") or (only and layer not in only) or item.value is None:
            continue
        value = item.value.hex(":") if isinstance(item.value, bytes) else item.value
        if isinstance(item.value, str):
            value = plain(re.sub(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]", lambda c: f"\\x{ord(c[0]):x}", item.value))
        found.setdefault(item.name, []).append(value)
    return _maps_sorted(found)


def _maps_sorted(found: dict[str, list[int | str | bool]]) -> dict[str, list[int | str | bool]]:
    """A map has no order: its two readers may differ in it."""
    return {name: sorted(values, key=str) if name.endswith(".attributes") else values for name, values in found.items()}


class Tshark:
    """tshark with the plugin, in a directory that everybody may read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plugin = directory / "pvnet.lua"
        shutil.copy(PLUGIN, self.plugin)
        self.plugin.chmod(0o644)

    def __call__(self, capture: Path, *arguments: str, check: bool = True) -> str:
        """Return the standard output for a capture."""
        copy = self.directory / "capture.pcapng"  # -2 wants a file, and the original may lie where only root can read
        shutil.copyfile(capture, copy)
        copy.chmod(0o644)
        run = self.run(["tshark", "-X", f"lua_script:{self.plugin}", "-r", str(copy), *arguments])
        if check:
            assert run.returncode == 0, run.stderr
            assert "lua" not in run.stderr.lower(), run.stderr
        return run.stdout if check else run.stdout + run.stderr

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command as nobody in particular."""
        drop = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        environment = {**os.environ, "HOME": str(self.directory), "XDG_CONFIG_HOME": str(self.directory)}
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.directory,
            check=False,
            timeout=90,
            **drop,
        )

    def packets(self, capture: Path, *arguments: str) -> list[Packet]:
        """Every packet with all its fields; pcapng's custom blocks, which tshark 4 shows as packets, left out."""
        return list(_packets(self(capture, "-T", "pdml", *arguments)))


def _packets(pdml: str) -> Iterator[Packet]:
    packet, is_custom = Packet(), False
    parser = ET.XMLPullParser(["start", "end"])
    parser.feed(pdml)
    for event, element in parser.read_events():
        name = element.get("name", "")
        if event == "start" and element.tag in ("field", "proto") and name:
            packet.fields.setdefault(name, []).append(element.get("show", ""))
            is_custom |= name == "frame" and element.get("showname", "").startswith("PCAPNG Custom Block")
        elif event == "end" and element.tag == "packet":
            if not is_custom:
                yield packet
            packet, is_custom = Packet(), False
            element.clear()


@contextmanager
def tshark_for_tests() -> Iterator[Tshark]:
    """A tshark that loads the plugin; skips where none can."""
    with tempfile.TemporaryDirectory(prefix="pvnet-tshark-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        made = Tshark(directory)
        try:
            run = made.run(["tshark", "-G", "fields", "-X", f"lua_script:{made.plugin}"])
        except PermissionError:
            pytest.skip("cannot run tshark as a user who is not root")
        if run.returncode and "ermission denied" in run.stderr:
            pytest.skip("a user who is not root cannot read the directory for temporary files")
        assert "pvnet.vmc.type" in run.stdout, run.stderr
        yield made


def write_capture(file: Path, records: Iterable[tuple[int, bytes]], name: str = "lpar1/call") -> Path:
    """Write records of (link type, bytes), one second apart."""
    with file.open("wb") as out:
        writer = CaptureWriter(out.write, make_info())
        for number, (link_type, data) in enumerate(records):
            writer.record(Interface(name, link_type), 1_700_000_000_000_000_000 + number * 1_000_000_000, data)
    return file
