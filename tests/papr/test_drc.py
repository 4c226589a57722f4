"""Connectors: indexes, attach and detach, what a register finds."""

import pytest

from pvnet.core.errors import LocalError
from pvnet.papr.drc import DrcTable, DrcType, EntitySense, drc_index


@pytest.mark.parametrize(
    ("kind", "number", "index"),
    [
        (DrcType.CPU, 0, 0x10000000), (DrcType.PHB, 1, 0x20000001), (DrcType.VIO, 0x71000003, None),
        (DrcType.PCI, 8, 0x40000008), (DrcType.LMB, 0x10, 0x80000010), (DrcType.PMEM, 2, 0x90000002),
        (DrcType.PMEM, 0xFFFFFFF, 0x9FFFFFFF), (DrcType.PMEM, -1, None), (DrcType.PMEM, 1 << 28, None),
    ],
)  # fmt: skip
def test_indexes_as_qemu_makes_them(kind, number, index):
    if index is None:
        with pytest.raises(LocalError, match="connector"):
            drc_index(kind, number)
    else:
        assert drc_index(kind, number) == index


def table():
    drcs = DrcTable()
    drcs.add(0x90000001, DrcType.PMEM)
    drcs.add(0x90000000, DrcType.PMEM, "first")
    drcs.add(0x80000010, DrcType.LMB)
    return drcs


def test_attach_and_detach():
    drcs = table()
    assert drcs.known(0x90000000).sense is EntitySense.UNUSABLE
    assert drcs.attach(0x90000000, "device").sense is EntitySense.PRESENT
    assert drcs.find(0x90000000, DrcType.PMEM) == "device"
    with pytest.raises(LocalError, match="has a device"):
        drcs.attach(0x90000000, "another")
    assert drcs.detach(0x90000000) == "device"
    assert drcs.find(0x90000000, DrcType.PMEM) is None
    with pytest.raises(LocalError, match="has no device"):
        drcs.detach(0x90000000)
    for change in (drcs.detach, lambda index: drcs.attach(index, "x")):
        with pytest.raises(LocalError, match="no DRC 0x77"):
            change(0x77)


def test_a_register_finds_by_its_low_half_and_the_kind():
    drcs = table()
    drcs.attach(0x90000001, "p")
    drcs.attach(0x80000010, "m")
    assert drcs.find(0xDEADBEEF90000001, DrcType.PMEM) == "p"
    assert drcs.find(0x80000010, DrcType.PMEM) is None
    assert drcs.find(0x80000010, DrcType.LMB) == "m"
    for register in (0, (1 << 64) - 1, 0x90000000, 0x90000002):
        assert drcs.find(register, DrcType.PMEM) is None


def test_bad_indexes():
    drcs = table()
    with pytest.raises(LocalError, match="used twice"):
        drcs.add(0x90000000, DrcType.PMEM)
    for index in (0, -1, 1 << 32):
        with pytest.raises(LocalError, match="expected 1 to"):
            drcs.add(index, DrcType.PMEM)


def test_properties_of_the_parent():
    drcs = table()
    assert len(drcs) == 3
    assert [drc.name for drc in drcs] == ["MEM 16", "first", "PMEM 1"]
    got = {p.name: p.value for p in drcs.properties()}
    assert got == {
        "ibm,drc-indexes": bytes.fromhex("00000003 80000010 90000000 90000001"),
        "ibm,drc-power-domains": bytes.fromhex("00000003 ffffffff ffffffff ffffffff"),
        "ibm,drc-names": bytes.fromhex("00000003") + b"MEM 16\0first\0PMEM 1\0",
        "ibm,drc-types": bytes.fromhex("00000003") + b"MEM\0PMEM\0PMEM\0",
    }
