"""The complete session of the specification sheet (9.4) and the partner's reset (9.5), message by message."""

from __future__ import annotations

import pytest
from vmc.pair import DRC, LLIOBN, QUERY, REQUESTVMC, RLIOBN, UNIT, Pair

from pvnet.papr.errno import EBADFD, EIO
from pvnet.vmc import hypervisor_io as hv
from pvnet.vmc.buffer_pool import BufferState
from pvnet.vmc.connection import HmcState
from pvnet.vmc.context import VmcState
from pvnet.vmc.dialect import HARDENED, LINUX, LOPAR
from pvnet.vmc.hypervisor_tables import HvLinkState, IndexState
from pvnet.vmc.interface import DeviceRead

REQUEST = bytes.fromhex("decaff2000000026000000008000008000000006000100000000000000000000000100000000")
RESPONSE = bytes.fromhex("decaff2000000026000000008000004000000006000100000000000000000000000100000000")
EVENT = bytes.fromhex("decaff2000000020") + bytes(24)

INIT, INIT_COMPLETE = "c001" + "00" * 14, "c002" + "00" * 14
CAP, CAP_RESP = "80010000000100200000100001000101", "80810000000200400000400000800101"
SEED, SEEDED = "80040000000000000000000000010000", "80840000000000000000000000000000"

HANDSHAKE = [("mp", INIT), ("hv", INIT_COMPLETE), ("mp", CAP), ("hv", CAP_RESP), ("hv", SEED), ("mp", SEEDED)]

SESSION = [
    ("H_REG_CRQ", UNIT, 0x1000, 0x1000),  # 1
    ("H_VIO_SIGNAL", UNIT, 1),  # 2
    *HANDSHAKE,  # 3 to 8
    ("H_COPY_RDMA", 0x1000, LLIOBN, 0x2000, RLIOBN, 0x10000),  # 10
    ("mp", "80020000010000000000000000000000"),  # 11 OPEN
    ("hv", "80040000010000010000000000011000"),  # 12 ADD BUF, partition-owned
    ("mp", "80840000010000010000000000000000"),  # 13
    ("hv", "80040001010000020000000000012000"),  # 14 ADD BUF, hypervisor-owned
    ("mp", "80840000010000020000000000000000"),  # 15
    ("hv", "80820000010000000000000000000000"),  # 16 OPEN RESP
    ("H_COPY_RDMA", 0x26, LLIOBN, 0x2000, RLIOBN, 0x10000),  # 18
    ("mp", "80060000010000000000000000000026"),  # 19 SIGNAL
    ("hv", "80060000010000020000000000000026"),  # 20 SIGNAL
    ("H_COPY_RDMA", 0x26, RLIOBN, 0x12000, LLIOBN, 0x4000),  # 21
    ("hv", "80060000010000000000000000000020"),  # 23 SIGNAL
    ("H_COPY_RDMA", 0x20, RLIOBN, 0x10000, LLIOBN, 0x2000),  # 24
    ("hv", "80050000010000000000000000000000"),  # 26 REM BUF
    ("mp", "80850000010000000000000000000000"),  # 27
    ("mp", "80030000010000000000000000000000"),  # 29 CLOSE
    ("hv", "80830000010000000000000000000000"),  # 30 CLOSE RESP
    ("hv", SEED),  # 31
    ("mp", SEEDED),  # 32
    ("H_FREE_CRQ", UNIT),  # 33
]


def pools(pair: Pair) -> tuple[dict[int, BufferState], dict[int, BufferState]]:
    """Buffers of index 0 at the partition and at the hypervisor."""
    mp = {i: b.state for i, b in pair.partition.sessions.connections.slots[0].pool}
    there = {i: b.state for i, b in pair.hypervisor.indices[0].pool} if pair.hypervisor.indices else {}
    return mp, there


def messages(log: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """The log without the slot numbers at the hypervisor."""
    return [row[:2] if row[0] == "mp" else row for row in log]


@pytest.mark.parametrize("dialect", [LINUX, HARDENED, LOPAR], ids=lambda d: d.name)
def test_complete_session(dialect):
    pair = Pair(dialect)
    slot = lambda: pair.partition.sessions.connections.slots[0]  # noqa: E731
    assert pair.partition.state is VmcState.INITIAL
    pair.probe()
    assert pair.partition.state is VmcState.READY
    assert pair.hypervisor.state is HvLinkState.READY
    assert pair.partition.negotiated == pair.hypervisor.negotiated == (1, 32, 4096)
    assert pools(pair) == ({0: BufferState.ALPHA_FREE}, {0: BufferState.ALPHA_FREE})

    handle = pair.open()
    before = len(pair.log)
    assert pair.set_hmc_id(handle, "hmcless id") == 0
    assert messages(pair.log[before : before + 2]) == SESSION[8:10]
    assert slot().state is HmcState.READY
    assert slot().session == 1
    assert hv.SessionOpened(0, 1, b"hmcless id".ljust(32, b"\0")) in pair.events
    assert pools(pair) == (
        {0: BufferState.ALPHA_FREE, 1: BufferState.ALPHA_FREE, 2: BufferState.HYPERVISOR_IDLE},
        {0: BufferState.ALPHA_FREE, 1: BufferState.ALPHA_FREE, 2: BufferState.HYPERVISOR_IDLE},
    )

    assert pair.write(handle, REQUEST) == 38
    assert pair.events[-1] == hv.MessageReceived(0, 1, REQUEST)
    assert pools(pair)[0][0] is BufferState.HYPERVISOR_HELD
    pair.send(0, RESPONSE)
    assert pools(pair)[0][2] is BufferState.ALPHA_INBOUND
    assert pair.poll(handle) == 0x41
    assert (pair.read(handle).result, pair.done[pair._request].data) == (38, RESPONSE)
    assert pools(pair)[0][2] is BufferState.ALPHA_FREE
    pair.send(0, EVENT)
    done = pair.read(handle)
    assert (done.result, done.data) == (32, EVENT)
    pair.feed_hypervisor(hv.TakeBuffer(0))
    pair.settle()
    assert hv.BufferTaken(0, 0) in pair.events
    assert pair.close(handle) == 0
    assert slot().state is HmcState.FREE
    assert hv.SessionClosed(0, 1, "closed") in pair.events
    assert pools(pair) == ({0: BufferState.ALPHA_FREE}, {0: BufferState.ALPHA_FREE})
    assert pair.hypervisor.indices[0].state is IndexState.IDLE
    pair.remove()
    assert pair.hypervisor.state is HvLinkState.DOWN  # 34: FF 02 in the hypervisor's queue
    assert pair.hypervisor.indices == []

    assert messages(pair.log) == SESSION
    assert [row[2] for row in pair.log if row[0] == "mp"] == list(range(10)), "slots at the hypervisor"


def test_slots_at_the_partition_keep_their_stale_bytes():
    pair = Pair()
    pair.probe()
    handle = pair.session()
    pair.close(handle)
    ring = pair.memory.read(0x1000, 0x1000)
    arrived = [row[1] for row in pair.log if row[0] == "hv"]
    for slot, element in enumerate(arrived):
        assert ring[slot * 16 : slot * 16 + 16].hex() == "00" + element[2:], f"slot {slot}"
    assert not any(ring[len(arrived) * 16 :])


def test_partner_reset_while_a_session_is_ready():
    pair = Pair()
    pair.probe()
    handle = pair.session()
    reading = pair.ask(DeviceRead, handle, 4096)
    pair.settle()
    assert reading not in pair.done
    before = len(pair.log)

    pair.hypervisor_up = False
    pair._platform(pair.platform.partner_free("mgmt", UNIT))  # 1: FF 02
    pair.settle()
    assert pair.partition.state is VmcState.CRQINIT
    assert pair.done[reading].result == -EBADFD
    assert pair.log[before:] == []
    assert pools(pair)[0] == {}
    assert pair.write(handle, b"x") == -EIO  # 2
    assert pair.read(handle).result == -EBADFD
    assert pair.set_hmc_id(handle) == -EIO
    assert pair.poll(handle) == 0

    pair.start_hypervisor(greet=True)
    pair.settle()
    assert (
        messages(pair.log[before:])
        == [
            ("hv", INIT),  # 3
            ("mp", INIT_COMPLETE),
            *HANDSHAKE[2:],  # 5 to 8
        ]
    )
    assert pair.close(handle) == 0  # 9
    before = len(pair.log)
    again = pair.open()
    assert pair.set_hmc_id(again) == 0
    assert messages(pair.log[before:])[1] == ("mp", "80020000020000000000000000000000")
    assert pair.partition.sessions.connections.slots[0].state is HmcState.READY


def test_query_and_request_vmc():
    pair = Pair()
    handle = pair.open()
    assert pair.ioctl(handle, QUERY).data == bytes(12)
    pair.probe()
    assert pair.ioctl(handle, QUERY).data == bytes.fromhex("010000000300000000000000")
    done = pair.ioctl(handle, REQUESTVMC)
    assert (done.result, done.data) == (0, DRC.to_bytes(4, "little"))
    assert pair.ioctl(handle, QUERY).data == bytes.fromhex("010000000300000002000030")
    assert pair.ioctl(handle, 0x400CCC01).data == bytes.fromhex("010000000300000002000030")
    big = Pair(byteorder="big")
    big.probe()
    handle = big.open()
    assert big.ioctl(handle, 0x4004CC02).data == DRC.to_bytes(4, "big")
    assert big.ioctl(handle, QUERY).data == bytes.fromhex("000000010000000330000002")
