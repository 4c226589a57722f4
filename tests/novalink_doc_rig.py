"""A platform as the tests of NovaLink's documents see it, and real looking requests for it."""

from __future__ import annotations

from pvnet.novalink.markup import Element, parse
from pvnet.novalink.names import UOM_NS
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Partition, Processors, Switch, System

MIB = 1 << 20
BASE = "https://lab.example:12443"
SYSTEM_UUID = "c0ffee00-0000-4000-8000-00000000000a"
MP, GUEST, IBMI = (f"aaaaaaaa-0000-4000-8000-{n:012x}" for n in (1, 2, 0xC))
SWITCHES = tuple(f"11111111-0000-4000-8000-{n:012x}" for n in (1, 0xA))


def view() -> View:
    """Return a system with three partitions (running, off, failed) and two switches; nothing is shared."""
    system = System(
        name="lab one",
        uuid=SYSTEM_UUID,
        machine_type="8247",
        model="22L",
        serial="PVNET01",
        memory_bytes=64 << 30,
        free_memory_bytes=60 << 30,
        memory_region_bytes=16 * MIB,
        processor_units=1650,
        free_processor_units=1505,
        revision=77,
        max_partitions=1000,
        lab="one",
    )
    switches = (
        Switch(name="lan", label="ETHERNET0", uuid=SWITCHES[0], mtu=1500, revision=5),
        Switch(name="other", uuid=SWITCHES[1], mtu=9000, revision=6),
    )
    shared = Processors(
        units=50, min_units=10, max_units=200, virtual=1, min_virtual=1, max_virtual=4, uncapped=True, weight=128
    )
    mp = Partition(
        name="mp",
        lpar_id=1,
        state=Partition.State.RUNNING,
        management=True,
        memory_bytes=512 * MIB,
        current_memory_bytes=256 * MIB,
        uuid=MP,
        processors=shared,
        type="aix-linux",
        revision=70,
        guest_ready=True,
        pid=1,
    )
    guest = Partition(
        name="lpar2",
        lpar_id=2,
        memory_bytes=64 * MIB,
        min_memory_bytes=32 * MIB,
        max_memory_bytes=128 * MIB,
        label="Zwölf & <Co>",
        uuid=GUEST,
        processors=shared,
        type="aix-linux",
        revision=71,
    )
    for slot, mac, switch, vlan, address in (
        (2, "02:00:00:00:00:0a", "lan", 0, "10.0.0.2/24"),
        (3, "02:00:00:00:00:0b", "other", 22, ""),
    ):
        guest.adapters.add(
            slot=slot,
            uuid=f"bbbbbbbb-0000-4000-8000-{slot:012x}",
            mac=mac,
            switch=switch,
            vlan=vlan,
            address=address,
            revision=70 + slot,
        )
    guest.scm.add(drc=0x44000001, size_bytes=128 * MIB, block_bytes=4096, type="nvdimm")
    ibmi = Partition(
        name="ibmi",
        lpar_id=3,
        state=Partition.State.FAILED,
        memory_bytes=64 * MIB,
        label="ibmi",
        uuid=IBMI,
        processors=Processors(dedicated=True, units=200, min_units=100, max_units=400, virtual=2),
        type="os400",
        revision=73,
        text="its process ended: signal 9",
    )
    return View(system, (mp, guest, ibmi), switches)


def guest_of(seen: View) -> Partition:
    """Return the partition with adapters and an SCM device."""
    return seen.partitions[1]


def with_text(element: Element, path: str, text: str) -> Element:
    """Return the element with another text at a path (``A/B``), which must be there."""
    first, _, rest = path.partition("/")
    assert any(child.name == first for child in element.children), path
    children = tuple(
        child
        if child.name != first
        else with_text(child, rest, text)
        if rest
        else Element(child.namespace, child.name, child.attributes, text)
        for child in element.children
    )
    return Element(element.namespace, element.name, element.attributes, element.text, children)


def document(kind: str, *fields: str) -> bytes:
    """Return a document of a kind whose fields are written out, with a prefix as pypowervm has it."""
    inside = "".join(fields)
    return f'<uom:{kind} xmlns:uom="{UOM_NS}" schemaVersion="V1_0">{inside}</uom:{kind}>'.encode()


def field(path: str, text: str = "") -> str:
    """Return a field at a path, with the prefix."""
    *outer, name = path.split("/")
    start = "".join(f"<uom:{part}><uom:Metadata><uom:Atom/></uom:Metadata>" for part in outer)
    end = "".join(f"</uom:{part}>" for part in reversed(outer))
    return f"{start}<uom:{name}>{text}</uom:{name}>{end}"


def link(name: str, href: str) -> str:
    """Return a field that has a link in it."""
    return f'<uom:{name}><uom:link href="{href}" rel="related"/></uom:{name}>'


def content_of(data: bytes) -> Element:
    """Return the resource in the document of an entry."""
    content = parse(data).child("content")
    assert content is not None
    assert len(content.children) == 1
    return content.children[0]
