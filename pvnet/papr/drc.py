"""Dynamic resource connectors (DRCs): the handles by which a partition names what the platform may give and take.

A connector exists whether or not a device is attached to it.  The partition knows it by a 32-bit index, which firmware
chooses: QEMU packs the kind into the top four bits and a number below (:func:`drc_index`), PowerVM uses other numbers;
nobody but the platform may take an index apart.  In registers only the low 32 bits count.

Doubts decided.  An index of one table is unique whatever its kind, and a look-up that asks for a kind treats an
unknown index, an empty connector and one of another kind alike, because the SCM hcalls do.  Connectors here are
*logical* ones: an empty one senses "unusable", not "empty", which is for physical slots.

Spec: LoPAR ch. 13 "dynamic reconfiguration", DRC properties and dr-entity-sense; hcall_scm 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, Generic, TypeVar

from pvnet.core.errors import LocalError
from pvnet.core.names import DrcIndex
from pvnet.papr.devicetree import Property, be32, strings

_U32: Final = 0xFFFF_FFFF
_NUMBER_BITS: Final = 28
NO_POWER_DOMAIN: Final = _U32
"""Power domain of a connector that needs none ("live insertion")."""

DeviceT = TypeVar("DeviceT")


class DrcType(IntEnum):
    """Kind of a connector; the value is what QEMU puts into the top four bits of an index."""

    CPU = 1
    PHB = 2
    VIO = 3
    PCI = 4
    LMB = 8
    PMEM = 9

    @property
    def text(self) -> str:
        """Entry of ``ibm,drc-types``."""
        return _TYPE_TEXTS[self]


_TYPE_TEXTS: Final = {
    DrcType.CPU: "CPU",
    DrcType.PHB: "PHB",
    DrcType.VIO: "SLOT",
    DrcType.PCI: "28",
    DrcType.LMB: "MEM",
    DrcType.PMEM: "PMEM",
}


class EntitySense(IntEnum):
    """Answer of the ``dr-entity-sense`` sensor."""

    EMPTY = 0
    PRESENT = 1
    UNUSABLE = 2
    EXCHANGE = 3
    RECOVER = 4


def drc_index(kind: DrcType, number: int) -> DrcIndex:
    """The index that QEMU gives connector ``number`` of a kind: PMEM slot 2 is 0x90000002.

    :raises LocalError: ``number`` needs more than 28 bits.
    """
    if not 0 <= number < 1 << _NUMBER_BITS:
        raise LocalError(f"connector {number}: expected 0 to {(1 << _NUMBER_BITS) - 1:#x}")
    return DrcIndex(kind << _NUMBER_BITS | number)


class Drc(Generic[DeviceT]):
    """One connector; ``device`` is what is attached, or ``None``."""

    __slots__ = ("device", "index", "kind", "name")

    def __init__(self, index: DrcIndex, kind: DrcType, name: str) -> None:
        self.index = index
        self.kind = kind
        self.name = name
        self.device: DeviceT | None = None

    @property
    def sense(self) -> EntitySense:
        """Whether a device is there."""
        return EntitySense.UNUSABLE if self.device is None else EntitySense.PRESENT


class DrcTable(Generic[DeviceT]):
    """All connectors of one partition, in the order of their indexes."""

    def __init__(self) -> None:
        self._drcs: dict[int, Drc[DeviceT]] = {}

    def add(self, index: int, kind: DrcType, name: str = "") -> Drc[DeviceT]:
        """Make a connector; without ``name`` it is called after its type and the low 28 bits of its index.

        :raises LocalError: the index is taken, or is none (32 bits, not 0).
        """
        if not 0 < index <= _U32:
            raise LocalError(f"DRC index {index:#x}: expected 1 to {_U32:#x}")
        if index in self._drcs:
            raise LocalError(f"DRC index {index:#x} is used twice")
        number = index & ((1 << _NUMBER_BITS) - 1)
        drc: Drc[DeviceT] = Drc(DrcIndex(index), kind, name or f"{kind.text} {number}")
        self._drcs[index] = drc
        return drc

    def attach(self, index: int, device: DeviceT) -> Drc[DeviceT]:
        """Attach a device.

        :raises LocalError: no such connector, or it has a device.
        """
        drc = self.known(index)
        if drc.device is not None:
            raise LocalError(f"DRC {index:#x} has a device")
        drc.device = device
        return drc

    def detach(self, index: int) -> DeviceT:
        """Take the device away; the connector stays.

        :raises LocalError: no such connector, or nothing is attached.
        """
        drc = self.known(index)
        if drc.device is None:
            raise LocalError(f"DRC {index:#x} has no device")
        device, drc.device = drc.device, None
        return device

    def known(self, index: int) -> Drc[DeviceT]:
        """The connector with this index.

        :raises LocalError: there is none.
        """
        drc = self._drcs.get(index)
        if drc is None:
            raise LocalError(f"no DRC {index:#x}")
        return drc

    def find(self, register: int, kind: DrcType) -> DeviceT | None:
        """The device that a guest's register names: connector exists, is of this kind and has one; else ``None``."""
        drc = self._drcs.get(register & _U32)
        return None if drc is None or drc.kind is not kind else drc.device

    def __iter__(self) -> Iterator[Drc[DeviceT]]:
        return iter([self._drcs[index] for index in sorted(self._drcs)])

    def __len__(self) -> int:
        return len(self._drcs)

    def properties(self) -> tuple[Property, ...]:
        """``ibm,drc-indexes``, ``-names``, ``-types`` and ``-power-domains`` of the parent node.

        Each is a list with its length in front: a 32-bit count, then the entries.
        """
        drcs = list(self)
        count = be32(len(drcs))
        return (
            Property("ibm,drc-indexes", count + be32(*(drc.index for drc in drcs))),
            Property("ibm,drc-power-domains", count + be32(*(NO_POWER_DOMAIN for _ in drcs))),
            Property("ibm,drc-names", count + strings(*(drc.name for drc in drcs))),
            Property("ibm,drc-types", count + strings(*(drc.kind.text for drc in drcs))),
        )
