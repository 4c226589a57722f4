"""Every structure of the bridge against the golden bytes of the specification (vbus 12, 14.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from vbus_core_rig import words

from pvnet.core.errors import WireError
from pvnet.vbus.layout import (
    CallDescriptor,
    DeviceCall,
    DeviceClose,
    DeviceOpen,
    DeviceShm,
    Event,
    EventQueue,
    FastcallDescriptor,
    KvmEventQueue,
    KvmNegotiate,
    KvmOpen,
    Negotiate,
    decode_queues,
    encode_queues,
    is_type,
    result_of,
    result_word,
)

HANDLE = 0x0000000200000001
COOKIE = 0x0000000100000005

VECTORS: dict[str, tuple[object, str, Callable[[bytes], object]]] = {
    "negotiate": (Negotiate(), "f5ee53bf 01000000 00000000 00000000", Negotiate.decode),
    "v1 mailbox DEVOPEN": (
        CallDescriptor(2, 16, 0x10420),
        "02000000 10000000 20040100 00000000",
        CallDescriptor.decode,
    ),
    "call_desc DEVSHM": (CallDescriptor(3, 48, 0x10420), "03000000 30000000 20040100 00000000", CallDescriptor.decode),
    "fastcall_desc": (
        FastcallDescriptor(3, 48, 0x10420, 1),
        "03000000 30000000 20040100 00000000 01000000 00000000",
        FastcallDescriptor.decode,
    ),
    "deviceopen request": (DeviceOpen(0, 1), "00000000 01000000 00000000 00000000", DeviceOpen.decode),
    "deviceopen reply": (DeviceOpen(0, 1, HANDLE), "00000000 01000000 01000000 02000000", DeviceOpen.decode),
    "deviceclose": (DeviceClose(HANDLE), "01000000 02000000", DeviceClose.decode),
    "devicecall MACQUERY": (
        DeviceCall(HANDLE, 2, 6, 0, 0x10480),
        "01000000 02000000 02000000 06000000 00000000 00000000 80040100 00000000",
        DeviceCall.decode,
    ),
    "deviceshm rx": (
        DeviceShm(HANDLE, 0, 184, 0, 8, 0, COOKIE, 0x10500),
        "01000000 02000000 00000000 b8000000 00000000 0000000008000000 00000000 05000000 01000000 00050100 00000000",
        DeviceShm.decode,
    ),
    "deviceshm pool": (
        DeviceShm(HANDLE, 100, 1280, 0, 0xFFFFFFFF, 0, 0, 0x10C00),
        "01000000 02000000 64000000 00050000 00000000 00000000ffffffff 00000000 00000000 00000000 000c0100 00000000",
        DeviceShm.decode,
    ),
    "kvm negotiate v2": (KvmNegotiate(), "23abf034 02000000 00000000 00000000", KvmNegotiate.decode),
    "kvm open": (KvmOpen(0, 7), "00000000 07000000" + "00" * 56, KvmOpen.decode),
    "kvm eventq_assign": (
        KvmEventQueue(0, 0, 9, 4, 0x10000, 0x10100),
        "00000000 00000000 09000000 04000000 00000100 00000000 00010100 00000000" + "00" * 32,
        KvmEventQueue.decode,
    ),
}
EVENTS = {
    "DEVADD": (
        Event(0, 0, "virtual-ethernet"),
        "00000000 00000000 00000000 00000000 76697274 75616c2d 65746865 726e6574" + "00" * 112,
    ),
    "DEVDROP": (Event(1, 0), "01000000 00000000 00000000 00000000" + "00" * 128),
    "SHMSIGNAL": (Event(2, COOKIE), "02000000 00000000 05000000 01000000" + "00" * 128),
    "SHMCLOSE": (Event(3, COOKIE), "03000000 00000000 05000000 01000000" + "00" * 128),
}
BUSREG = "01000000 00000000 04000000 00000000 00000100 00000000 00010100 00000000"
HOLES = {"fastcall_desc": [20, 23], "devicecall MACQUERY": [20, 23], "deviceshm rx": [20, 23], "kvm open": [8, 63]}


@pytest.mark.parametrize("name", VECTORS)
def test_a_structure_round_trips_with_its_golden_bytes(name: str) -> None:
    value, text, decode = VECTORS[name]
    assert value.encode() == words(text)  # type: ignore[attr-defined]
    assert decode(words(text)) == value


@pytest.mark.parametrize("name", VECTORS)
def test_a_structure_of_another_length_is_refused(name: str) -> None:
    _, text, decode = VECTORS[name]
    for data in (words(text)[:-1], words(text) + b"\0", b""):
        with pytest.raises(WireError):
            decode(data)


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, holes in HOLES.items() for at in holes])
def test_a_hole_that_is_not_zero_is_refused_where_it_is(name: str, at: int) -> None:
    _, text, decode = VECTORS[name]
    data = bytearray(words(text))
    data[at] = 1
    with pytest.raises(WireError) as caught:
        decode(bytes(data))
    assert caught.value.offset == at


@pytest.mark.parametrize("name", ["negotiate", "kvm negotiate v2"])
@pytest.mark.parametrize("at", [0, 3, 4, 7])
def test_a_wrong_magic_or_version_is_refused(name: str, at: int) -> None:
    _, text, decode = VECTORS[name]
    data = bytearray(words(text))
    data[at] ^= 0x80
    with pytest.raises(WireError) as caught:
        decode(bytes(data))
    assert caught.value.offset == at // 4 * 4


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_round_trips_with_its_golden_bytes(name: str) -> None:
    value, text = EVENTS[name]
    data = words(text)
    assert len(data) == 144
    assert value.encode() == data
    assert Event.decode(data) == value
    with pytest.raises(WireError):
        Event.decode(data[:-1])
    with pytest.raises(WireError):
        Event.decode(data[:4] + b"\x01" + data[5:])
    with pytest.raises(WireError):
        Event.decode(b"\x04" + data[1:])


def test_a_type_of_128_characters_has_no_nul_and_is_read_whole() -> None:
    event = Event(0, 3, "a" * 128)
    assert event.encode()[-1:] == b"a"
    assert Event.decode(event.encode()) == event


@pytest.mark.parametrize("name", [b"", b"Virtual", b"a b", b"a\nb", b"\xffa", b"a/b"])
def test_a_type_that_no_driver_can_have_is_refused(name: bytes) -> None:
    data = bytearray(Event(0, 1, "x").encode())
    data[16:] = name.ljust(128, b"\0")
    with pytest.raises(WireError):
        Event.decode(bytes(data))
    assert not is_type(name.decode("latin-1"))


def test_a_type_ends_at_its_first_nul() -> None:
    data = bytearray(Event(0, 1, "ab").encode())
    data[20:24] = b"junk"
    assert Event.decode(bytes(data)).type == "ab"


def test_queues_round_trip_with_their_golden_bytes() -> None:
    queues = [EventQueue(4, 0x10000, 0x10100)]
    assert encode_queues(queues) == words(BUSREG)
    assert decode_queues(words(BUSREG)) == queues
    three = [EventQueue(4, i << 16, i << 20) for i in range(1, 4)]
    assert decode_queues(encode_queues(three)) == three
    assert len(encode_queues(three)) == 8 + 3 * 24


@pytest.mark.parametrize(
    "data",
    [
        words(BUSREG)[:-1],
        words(BUSREG)[:7],
        words(BUSREG) + b"\0",
        b"\0" + words(BUSREG)[1:],
        b"\x02" + words(BUSREG)[1:],
        (9).to_bytes(8, "little") + bytes(9 * 24),
        words(BUSREG)[:4] + b"\x01" + words(BUSREG)[5:],
        words(BUSREG)[:12] + b"\x01" + words(BUSREG)[13:],
    ],
)
def test_queues_that_are_cut_or_miscounted_or_have_holes_filled_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_queues(data)


@pytest.mark.parametrize(("result", "text"), [(-22, "eaffffff"), (-2, "feffffff"), (0, "00000000"), (100, "64000000")])
def test_results_are_signed_words(result: int, text: str) -> None:
    assert result_word(result).to_bytes(4, "little") == words(text)
    assert result_of(result_word(result)) == result
