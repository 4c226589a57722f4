"""A message as named values, down into the raw structures, with what each identifier identifies.

:func:`slots_of` takes a message apart: protobuf fields by their names, the words of an HSEND_CRQ and the 16 bytes of a
CRQ entry as the VMC message that they are, hcall registers by number, vfio-user headers, payloads of a VMC session, and
the bytes that vbus messages carry for the other side's copy of the arena.

Some values are *identifiers*: whoever chose them could have chosen others, and only who uses the same one means the
same thing (a session number, a file handle, a token, the address of a buffer).  Such a slot has a ``domain``: values
can be told apart only within one domain, so session 1 of connection 0 and session 1 of connection 1 are two things.
Which places hold identifiers is a fact of the protocols and stands here; what they identify is learned from the
traffic (:mod:`pvnet.capture.expect`).  A slot that can be changed in its message has ``store``.

Spec: vmc 2.2, 2.3; mdev 6.1; hcall_scm 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from pvnet.capture.lore import ADMINISTRATIVE, BY_SERVER, SEND_CRQ, WORDS, Domain, Lore
from pvnet.core.errors import WireError
from pvnet.mdev.vfio_user import HEADER, HEADER_SIZE, TYPE_COMMAND, TYPE_MASK
from pvnet.papr.crq import ELEMENT_BYTES, CrqHeader
from pvnet.papr.hcall import HcallOpcode
from pvnet.papr.signatures import SIGNATURES, Unit
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.vmc.messages import NO_BUFFER, VmcType
from pvnet.vmc.router import DESCRIPTOR, HEADER_BYTES, decode_frame, decode_router, encode_frame, is_frame

Value: TypeAlias = int | str | bytes
Store: TypeAlias = Callable[[int], None]

_VMC: Final = struct.Struct(">BBBBBBHII")
_VMC_NAMES: Final = ("header", "type", "status", "owner", "session", "index", "buffer_id", "reserved", "word")
_ADMIN: Final = struct.Struct(">BBBBBBHIHH")
_ADMIN_NAMES: Final = (
    "header", "type", "status", "reserved", "reserved2", "max_hmc", "pool_size", "max_mtu", "crq_size", "version",
)  # fmt: skip
_CORRELATION: Final = struct.Struct(">I")
_CORRELATION_AT: Final = 8
_COPY_RDMA: Final = int(HcallOpcode.H_COPY_RDMA)
_ALL_ONES: Final = (1 << 64) - 1
_WITH_BUFFER: Final = frozenset(set(VmcType) - ADMINISTRATIVE - {VmcType.CLOSE, VmcType.CLOSE_RESPONSE})
_PAYLOAD_MIN: Final = 4


@dataclass(frozen=True, slots=True)
class Slot:
    """One value of a message: ``path`` is its name, as ``hcall.args.2`` or ``crq_entry.element.session``."""

    path: str
    value: Value
    domain: Domain | None = None
    store: Store | None = None


def slots_of(envelope: Envelope, peer: str, *, call: Envelope | None = None, lore: Lore | None = None) -> list[Slot]:
    """Take a message apart.

    :param peer: the other side, as the side sees it that the recording is of; part of every domain.
    :param call: the call that a reply answers.
    """
    body = envelope.WhichOneof("body")
    if body is None:
        return []
    return list(_Reader(peer, call, lore or Lore()).read(body, getattr(envelope, body)))


class _Reader:
    def __init__(self, peer: str, call: Envelope | None, lore: Lore) -> None:
        self.peer = peer
        self.call = call
        self.lore = lore

    def read(self, body: str, message: Message) -> Iterator[Slot]:
        """Yield the slots of the body ``body``."""
        special = _SPECIAL.get(body)
        if special is None:
            yield from self.plain(body, message)
        else:
            yield from special(self, body, message)

    # --- protobuf ----------------------------------------------------------------------------------------------------

    def plain(self, prefix: str, message: Message, without: Sequence[str] = ()) -> Iterator[Slot]:
        """Yield the fields of a message by their names; those that have their default are absent."""
        for descriptor, value in message.ListFields():
            if descriptor.name in without:
                continue
            path = f"{prefix}.{descriptor.name}"
            if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
                for key in sorted(value):
                    yield Slot(f"{path}.{key}", _scalar(value[key]))
            elif isinstance(value, Message):
                yield Slot(path, 1)  # that it is there says something, too
                yield from self.plain(path, value)
            elif isinstance(value, str | bytes | int | float):
                yield self._scalar(path, message, descriptor, value)
            else:
                for number, item in enumerate(value):
                    if isinstance(item, Message):
                        yield from self.plain(f"{path}.{number}", item)
                    else:
                        yield Slot(f"{path}.{number}", _scalar(item))

    def _scalar(self, path: str, message: Message, descriptor: FieldDescriptor, value: object) -> Slot:
        domain = self._domain(f"{message.DESCRIPTOR.name}.{descriptor.name}", message)
        if domain is None or value == 0:
            return Slot(path, _scalar(value))
        return Slot(path, _scalar(value), domain, partial(setattr, message, descriptor.name))

    def _domain(self, name: str, message: Any) -> Domain | None:
        """The domain of a protobuf field, by message and field."""
        peer = self.peer
        match name:
            case "CrqEntry.registration" | "CrqProgress.registration":
                return ("crq registration", peer, message.unit)
            case "DeviceIo.handle":
                return ("device handle", peer)
            case "DeviceReply.result" if self._is_open() and message.result > 0:
                return ("device handle", peer)
            case "DeviceIo.interrupts":
                return ("correlation", peer)
            case "Management.token" | "ManagementReply.token":
                return ("management token", peer)
            case "MdevReply.session" | "MdevMessage.session" | "MdevIrq.session" | "MdevClose.session":
                return ("mdev session", peer)
            case "MdevIrq.target":
                return ("mdev irq target", peer, message.session)
            case "MdevTransfer.transfer":
                return ("mdev transfer", peer)
            case "VbusAttach.shared":
                return ("vbus share", peer)
        return None

    def _is_open(self) -> bool:
        return self.call is not None and self.call.device_io.operation == DeviceIo.OPEN

    # --- hcalls ------------------------------------------------------------------------------------------------------

    def hcall(self, prefix: str, message: Any) -> Iterator[Slot]:
        """H: opcode, registers, bytes that travel with it."""
        yield from self.plain(prefix, message, ("args", "memory"))
        yield from self._registers(f"{prefix}.args", message.opcode, message.args, message.args)
        if message.HasField("memory"):
            yield from self._payload(f"{prefix}.memory", message, Management)

    def hcall_reply(self, prefix: str, message: Any) -> Iterator[Slot]:
        """R: return code, registers, bytes that come back."""
        yield Slot(f"{prefix}.rc", message.rc)
        call = self.call.hcall if self.call is not None else None
        opcode, args = (call.opcode, call.args) if call is not None else (0, ())
        signature = SIGNATURES.get(HcallOpcode(opcode))
        outputs = len(signature.outputs) if signature is not None and message.rc >= 0 else 0
        yield from self._registers(f"{prefix}.outs", opcode, message.outs, args, outputs)
        if message.HasField("memory"):
            yield from self._payload(f"{prefix}.memory", message, ManagementReply)

    def _registers(
        self, prefix: str, opcode: int, values: Any, args: Sequence[int], outputs: int = 0
    ) -> Iterator[Slot]:
        """Registers from r4 upward: the first ``outputs`` are the call's results, the others its arguments."""
        is_element = opcode == SEND_CRQ and len(values) >= 3
        for number, value in enumerate(values):
            if is_element and number in (1, 2):
                continue
            domain = self._register(opcode, number, args, is_output=number < outputs)
            store = partial(values.__setitem__, number) if domain is not None else None
            yield Slot(f"{prefix}.{number}", value, domain, store)
        if is_element:

            def put(element: bytes) -> None:
                values[1], values[2] = WORDS.unpack(element)

            yield from self._crq(f"{prefix}.element", values[0], WORDS.pack(values[1], values[2]), put)

    def _register(self, opcode: int, number: int, args: Sequence[int], *, is_output: bool) -> Domain | None:
        signature = SIGNATURES.get(HcallOpcode(opcode))
        if signature is None:
            return None
        if opcode == _COPY_RDMA:
            return self._window(args[number - 1]) if number in (2, 4) and len(args) >= number else None
        table = signature.outputs if is_output else signature.inputs
        if number >= len(table):
            return None
        match table[number].unit:
            case Unit.TOKEN:
                return ("hcall token", self.peer, opcode)
            case Unit.ADDRESS if is_output:
                return ("logical address", self.peer)
        return None

    def _window(self, liobn: int) -> Domain:
        """Addresses in the partition's own window, or those of the hypervisor's buffers."""
        return ("ioba", self.peer, liobn) if liobn in self.lore.own_liobns else ("buffer address", self.peer)

    # --- CRQ elements ------------------------------------------------------------------------------------------------

    def crq_entry(self, prefix: str, message: Any) -> Iterator[Slot]:
        """C: where the entry goes, and what it says."""
        yield from self.plain(prefix, message, ("element",))

        def put(element: bytes) -> None:
            message.element = element

        yield from self._crq(f"{prefix}.element", message.unit, message.element, put)

    def _crq(self, prefix: str, unit: int, element: bytes, put: Callable[[bytes], None]) -> Iterator[Slot]:
        units = self.lore.vmc_units
        if (
            len(element) != ELEMENT_BYTES
            or element[0] != CrqHeader.COMMAND
            or (units is not None and unit not in units)
        ):
            yield Slot(prefix, element)
            return
        kind = element[1]
        if kind in ADMINISTRATIVE:
            for name, value in zip(_ADMIN_NAMES, _ADMIN.unpack(element), strict=True):
                yield Slot(f"{prefix}.{name}", value)
            return
        values = dict(zip(_VMC_NAMES, _VMC.unpack(element), strict=True))
        domains: dict[str, Domain] = {"index": ("vmc index", self.peer, unit)}
        if values["session"]:
            domains["session"] = ("vmc session", self.peer, unit, values["index"])
        if kind in _WITH_BUFFER and values["buffer_id"] != NO_BUFFER:
            domains["buffer_id"] = ("vmc buffer", self.peer, unit, values["index"])
        if kind == VmcType.ADD_BUFFER:
            domains["word"] = ("buffer address", self.peer)
        # The Linux driver leaves stack garbage in bytes 8 to 11; their meaning is "ignored".
        for name, value in values.items():
            if name == "reserved":
                continue
            domain = domains.get(name)
            store = None if domain is None else partial(self._put_field, values, name, put)
            yield Slot(f"{prefix}.{name}", value, domain, store)

    @staticmethod
    def _put_field(values: dict[str, int], name: str, put: Callable[[bytes], None], value: int) -> None:
        values[name] = value
        put(_VMC.pack(*values.values()))

    # --- payloads of a VMC session -----------------------------------------------------------------------------------

    def _payload(self, path: str, message: Any, kind: type[Message]) -> Iterator[Slot]:
        data = bytes(message.memory)
        if is_frame(data):
            try:
                inner: Any = kind.FromString(decode_frame(data))
            except (WireError, DecodeError):
                yield Slot(path, data)
                return

            def put_token(value: int) -> None:
                inner.token = value
                changed = encode_frame(inner.SerializeToString())
                if len(changed) == len(data):  # its length is known to others already
                    message.memory = changed

            token = inner.token
            domain = ("payload token", self.peer)
            yield Slot(f"{path}.token", token, domain if token else None, put_token if token else None)
            yield from self.plain(path, inner, ("token",))
        elif data[:3] == DESCRIPTOR and len(data) >= HEADER_BYTES:
            try:
                router = decode_router(data)
            except WireError:
                yield Slot(path, data)
                return

            def put_correlation(value: int) -> None:
                changed = bytearray(message.memory)
                _CORRELATION.pack_into(changed, _CORRELATION_AT, value)
                message.memory = bytes(changed)

            yield Slot(f"{path}.correlation", router.correlation, ("router correlation", self.peer), put_correlation)
            for name in ("opcode", "rc", "target", "flags", "data"):
                yield Slot(f"{path}.{name}", getattr(router, name))
        else:
            yield Slot(path, data)

    # --- mediated devices --------------------------------------------------------------------------------------------

    def mdev_message(self, prefix: str, message: Any) -> Iterator[Slot]:
        """M: one vfio-user message, its header taken apart."""
        yield from self.plain(prefix, message, ("message", "descriptors"))
        for number, value in enumerate(message.descriptors):
            target: Domain = ("mdev irq target", self.peer, message.session)
            store = partial(message.descriptors.__setitem__, number)
            yield Slot(f"{prefix}.descriptors.{number}", value, target, store)
        data = message.message
        if len(data) < HEADER_SIZE:
            yield Slot(f"{prefix}.message", data)
            return
        number, command, size, flags, error = HEADER.unpack_from(data)

        def put_id(value: int) -> None:
            message.message = value.to_bytes(2, "little") + message.message[2:]

        is_command = flags & TYPE_MASK == TYPE_COMMAND
        # Both sides number their own commands; DMA_READ and DMA_WRITE are the server's.
        domain = ("vfio-user id", self.peer, message.session, int(command in BY_SERVER))
        yield Slot(f"{prefix}.id", number, domain, put_id)
        yield Slot(f"{prefix}.type", "command" if is_command else "reply")
        for name, value in (("command", command), ("size", size), ("flags", flags), ("error", error)):
            yield Slot(f"{prefix}.{name}", value)
        yield Slot(f"{prefix}.data", bytes(data[HEADER_SIZE:]))

    # --- vbus --------------------------------------------------------------------------------------------------------

    def vbus(self, prefix: str, message: Any) -> Iterator[Slot]:
        """V: a message that takes changes of the arena along: however they are cut, the bytes count."""
        yield from self.plain(prefix, message, ("writes",))
        for address, data in merge_writes((write.address, write.data) for write in message.writes):
            yield Slot(f"{prefix}.writes.{address:#x}", data)


_SPECIAL: Final[dict[str, Callable[[_Reader, str, Any], Iterator[Slot]]]] = {
    "hcall": _Reader.hcall,
    "hcall_reply": _Reader.hcall_reply,
    "crq_entry": _Reader.crq_entry,
    "mdev_message": _Reader.mdev_message,
    "vbus_call": _Reader.vbus,
    "vbus_reply": _Reader.vbus,
    "vbus_doorbell": _Reader.vbus,
    "vbus_irq": _Reader.vbus,
    "vbus_update": _Reader.vbus,
}


def merge_writes(writes: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return writes as what they leave behind: runs in the order of their addresses, none touching the next."""
    left: dict[int, int] = {}
    for address, data in writes:
        left.update(zip(range(address, address + len(data)), data, strict=True))
    runs: list[tuple[int, bytearray]] = []
    for address in sorted(left):
        if runs and runs[-1][0] + len(runs[-1][1]) == address:
            runs[-1][1].append(left[address])
        else:
            runs.append((address, bytearray([left[address]])))
    return [(address, bytes(run)) for address, run in runs]


def _scalar(value: object) -> Value:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | str | bytes) else str(value)
