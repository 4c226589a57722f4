"""On direct paths the hypervisor maps its partitions' memory: no bytes travel in hcalls, nothing else changes."""

from __future__ import annotations

import pytest
from behaviour_worlds import MQTT, behaviour, eventually

from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.hcall import HcallRc as Rc
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.topology import HYPERVISOR
from pvnet.testing.in_process import InProcessLab
from pvnet.transport.unix import UnixPort

UNIX = [pytest.param(MQTT["unix"], id="unix", marks=pytest.mark.needs("mosquitto"))]
OVER_A_BROKER = [pytest.param(MQTT["mqtt-embedded"], id="mqtt-embedded")]


async def mapped(lab: InProcessLab, *names: str) -> None:
    """Wait until the hypervisor maps these partitions' memory, and they know."""

    async def all_are() -> bool:
        known = lab.hypervisor.memories.used
        return all(name in known and lab.partition(name).hcalls.mapped for name in names)

    await eventually(all_are)


class Carried:
    """Counts the hcalls of the management partition, and those with bytes inside."""

    def __init__(self, lab: InProcessLab) -> None:
        self.calls = self.with_bytes = self.chunks = 0
        lab.partition().endpoint.taps.listeners.append(self._see)

    def _see(self, _direction: str, envelope: Envelope) -> None:
        match envelope.WhichOneof("body"):
            case "hcall":
                self.calls += 1
                self.with_bytes += envelope.hcall.HasField("memory")
            case "hcall_reply":
                self.with_bytes += envelope.hcall_reply.HasField("memory")
            case "memory_read" | "memory_write":
                self.chunks += 1


@behaviour(worlds=UNIX)
async def test_a_session_moves_no_bytes_in_messages(lab: InProcessLab) -> None:
    await mapped(lab, "mp", "lpar1")
    carried = Carried(lab)
    async with await lab.session() as session:
        await session.router_open()
        for size in (1, 64, 4000):
            data = bytes(i % 251 for i in range(size))
            assert await session.echo(data) == data
        await session.router_close()
    assert carried.calls > 6
    assert (carried.with_bytes, carried.chunks) == (0, 0)


@behaviour(worlds=UNIX)
async def test_who_records_gets_the_lists_of_tces(lab: InProcessLab) -> None:
    """They are what makes a recording of a partition one that can be played."""
    await mapped(lab, "mp")
    mp = lab.partition()
    lists: list[bytes] = []

    def see(_direction: str, envelope: Envelope) -> None:
        if envelope.hcall.opcode == Op.H_PUT_TCE_INDIRECT:
            lists.append(envelope.hcall.memory)

    mp.endpoint.taps.listeners.append(see)
    assert mp.adapter is not None
    await mp.adapter.map()
    assert lists
    assert all(len(each) % 8 == 0 and each.strip(b"\0") for each in lists)


@behaviour(worlds=UNIX)
async def test_a_copy_longer_than_a_message_needs_no_chunks(lab: InProcessLab) -> None:
    await mapped(lab, "mp")
    carried = Carried(lab)
    mp = lab.partition()
    liobn, data = int(mp.layout.vmc.liobn), bytes(i * 7 % 251 for i in range(100_000))
    memory = mp.adapter.memory
    memory.write(0x800000, data)
    rc, _ = await mp.hcalls.call(Op.H_COPY_RDMA, (len(data), liobn, 0x800000, liobn, 0x840001))
    assert rc == Rc.H_SUCCESS
    assert memory.read(0x840001, len(data)) == data
    assert (carried.calls, carried.with_bytes, carried.chunks) == (1, 0, 0)


@behaviour(worlds=UNIX)
async def test_a_broken_path_changes_nothing_and_comes_back(lab: InProcessLab) -> None:
    await mapped(lab, "mp")
    mp = lab.partition()
    port = mp.endpoint._port
    assert isinstance(port, UnixPort)
    port.break_path(HYPERVISOR)
    async with await lab.session() as session:
        await session.router_open()
        assert await session.echo(b"x" * 2000) == b"x" * 2000
        await session.router_close()
    await mapped(lab, "mp")


@behaviour(worlds=UNIX)
async def test_a_hypervisor_that_restarts_maps_again(lab: InProcessLab) -> None:
    await mapped(lab, "mp", "lpar1")
    hcalls = lab.partition().hcalls
    await lab.crash(HYPERVISOR)

    async def is_gone() -> bool:
        return not hcalls.mapped

    await eventually(is_gone)
    await lab.start(HYPERVISOR)
    await mapped(lab, "mp", "lpar1")


@behaviour(worlds=UNIX)
async def test_a_partition_that_restarts_has_its_new_memory_mapped(lab: InProcessLab) -> None:
    await mapped(lab, "mp", "lpar1")
    await lab.crash("lpar1")

    async def is_unmapped() -> bool:
        return lab.hypervisor.memories.used == ["mp"]

    await eventually(is_unmapped)
    await lab.start("lpar1")
    await mapped(lab, "lpar1")


@behaviour(worlds=OVER_A_BROKER)
async def test_over_a_broker_nothing_is_mapped(lab: InProcessLab) -> None:
    assert lab.hypervisor.memories.used == []
    assert not lab.partition().hcalls.mapped
