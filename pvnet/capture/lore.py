"""What has to be known of a recording to read its messages, and which identifiers end with a message.

See :mod:`pvnet.capture.slots`.  Spec: vmc 2.2, 2.3, 5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pvnet.mdev.vfio_user import HEADER, HEADER_SIZE, TYPE_COMMAND, TYPE_MASK, Command
from pvnet.papr.crq import ELEMENT_BYTES, CrqHeader
from pvnet.papr.hcall import HcallOpcode
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.vmc.messages import VmcType

Domain: TypeAlias = tuple[str | int, ...]
"""Where an identifier means something: a kind of thing, whose it is, within what."""

ADMINISTRATIVE: Final = frozenset({VmcType.CAPABILITIES, VmcType.CAPABILITIES_RESPONSE})
BY_SERVER: Final = frozenset({Command.DMA_READ, Command.DMA_WRITE})
"""vfio-user commands that the server gives."""
WORDS: Final = struct.Struct(">QQ")
SEND_CRQ: Final = int(HcallOpcode.H_SEND_CRQ)


@dataclass(slots=True)
class Lore:
    """What has to be known of a recording to read its messages.

    ``vmc_units``: unit addresses whose CRQ carries the VMC; None: any.  ``own_liobns``: windows that the partitions
    have filled with their own pages; what H_COPY_RDMA names elsewhere lies in the hypervisor's buffers.
    """

    vmc_units: frozenset[int] | None = None
    own_liobns: set[int] = field(default_factory=set)


def learn_lore(messages: Iterable[Envelope]) -> Lore:
    """Find out what :class:`Lore` says from all messages of a recording."""
    units: set[int] = set()
    lore = Lore()
    for envelope in messages:
        body = envelope.WhichOneof("body")
        if body == "crq_entry" and _is_capabilities(envelope.crq_entry.element):
            units.add(envelope.crq_entry.unit)
        elif body == "hcall":
            args = envelope.hcall.args
            if envelope.hcall.opcode == SEND_CRQ and len(args) >= 3 and _is_capabilities(args[1].to_bytes(8, "big")):
                units.add(args[0])
            elif envelope.hcall.opcode in _TCE_CALLS and args:
                lore.own_liobns.add(args[0])
    lore.vmc_units = frozenset(units) or None
    return lore


_TCE_CALLS: Final = frozenset(
    {int(HcallOpcode.H_PUT_TCE), int(HcallOpcode.H_PUT_TCE_INDIRECT), int(HcallOpcode.H_STUFF_TCE)}
)


def _is_capabilities(element: bytes) -> bool:
    return len(element) >= 2 and element[0] == CrqHeader.COMMAND and element[1] in ADMINISTRATIVE


def released_by(
    envelope: Envelope, peer: str, *, call: Envelope | None = None, lore: Lore | None = None
) -> list[Domain]:
    """Return what is over when this message has passed: prefixes of domains whose identifiers may be given anew.

    A domain with one value more names just that identifier.
    """
    body = envelope.WhichOneof("body")
    units = (lore or Lore()).vmc_units
    if body == "crq_entry":
        entry = envelope.crq_entry
        return _released_by_element(entry.element, peer, entry.unit, units)
    if body == "hcall_reply" and call is not None:
        asked = call.hcall
        if asked.opcode in _QUEUE_CALLS and asked.args and envelope.hcall_reply.rc in (0, 2):
            return _all_of(peer, asked.args[0])
        if asked.opcode == SEND_CRQ and len(asked.args) >= 3 and envelope.hcall_reply.rc == 0:
            return _released_by_element(WORDS.pack(asked.args[1], asked.args[2]), peer, asked.args[0], units)
    if body == "device_reply" and call is not None and call.device_io.operation == DeviceIo.CLOSE:
        return [("device handle", peer, call.device_io.handle)]
    if body == "mdev_message" and len(envelope.mdev_message.message) >= HEADER_SIZE:
        number, command, _, flags, _ = HEADER.unpack_from(envelope.mdev_message.message)
        if flags & TYPE_MASK != TYPE_COMMAND:
            return [("vfio-user id", peer, envelope.mdev_message.session, int(command in BY_SERVER), number)]
    return []


_QUEUE_CALLS: Final = frozenset({int(HcallOpcode.H_REG_CRQ), int(HcallOpcode.H_FREE_CRQ)})


def _all_of(peer: str, unit: int) -> list[Domain]:
    names = ("vmc index", "vmc session", "vmc buffer")
    return [*((name, peer, unit) for name in names), ("buffer address", peer)]


def _released_by_element(element: bytes, peer: str, unit: int, units: frozenset[int] | None) -> list[Domain]:
    if len(element) != ELEMENT_BYTES or (units is not None and unit not in units):
        return []
    if element[0] in (CrqHeader.INIT, CrqHeader.TRANSPORT_EVENT):
        return _all_of(peer, unit)
    if element[0] != CrqHeader.COMMAND:
        return []
    index = element[5]
    buffer = int.from_bytes(element[6:8], "big")
    match element[1]:
        case VmcType.CLOSE_RESPONSE:
            return [("vmc session", peer, unit, index), ("vmc buffer", peer, unit, index)]
        case VmcType.REMOVE_BUFFER_RESPONSE:
            return [("vmc buffer", peer, unit, index, buffer)]
    return []
