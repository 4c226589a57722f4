"""The client library where it gives up: nothing that it started stays behind at the partition."""

from __future__ import annotations

import asyncio

import pytest
from behaviour_worlds import WORLDS, Loopback, behaviour, eventually

from pvnet.client.device import VmcDevice
from pvnet.client.session import VmcSession
from pvnet.core.errors import DeadlineError
from pvnet.runtime.topology import HypervisorConfig, HypervisorVmc, PartitionConfig, PartitionVmc
from pvnet.testing.in_process import InProcessLab
from pvnet.transport.link import LinkConfig

LOOPBACKS = [world for world in WORLDS if world.id.startswith("loopback")]
PATIENT = LinkConfig(retransmit_s=0.05, retransmit_max_s=0.5, grace_s=20.0)


async def opens(lab: InProcessLab) -> int:
    return int((await lab.status("mp"))["open_files"])


@behaviour(worlds=LOOPBACKS, link=PATIENT)
async def test_file_that_opens_after_its_caller_gave_up_is_closed(lab: InProcessLab) -> None:
    assert isinstance(lab.network, Loopback)
    device = VmcDevice(await lab.client(), timeout=0.5)
    await device.open()
    await device.close()
    lab.network.loopback.cut("mp")
    with pytest.raises(DeadlineError, match="mp did not answer"):
        await device.open()
    lab.network.loopback.mend("mp")
    await asyncio.sleep(5.0)
    assert await opens(lab) == 1, "the manager's"


@behaviour(worlds=LOOPBACKS, link=PATIENT)
async def test_cancelled_open_leaves_no_file(lab: InProcessLab) -> None:
    assert isinstance(lab.network, Loopback)
    device = await lab.device()
    await lab.client()
    lab.network.loopback.cut("mp")
    opening = asyncio.ensure_future(device.open())
    await asyncio.sleep(0.2)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    lab.network.loopback.mend("mp")
    await asyncio.sleep(5.0)
    assert await opens(lab) == 1


@behaviour(worlds=LOOPBACKS, link=PATIENT)
async def test_block_that_is_cancelled_does_not_wait_for_its_close(lab: InProcessLab) -> None:
    assert isinstance(lab.network, Loopback)
    loop = asyncio.get_running_loop()
    inside = asyncio.Event()

    async def block() -> None:
        async with await lab.session():
            inside.set()
            await loop.create_future()

    running = asyncio.ensure_future(block())
    await inside.wait()
    lab.network.loopback.cut("mp")
    began = loop.time()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert loop.time() - began < 1.0
    lab.network.loopback.mend("mp")


@pytest.mark.parametrize("mtu", [4096, 4097, 5000, 16384])
def test_mtu_is_found_out_above_the_usual(mtu: int) -> None:
    from behaviour_worlds import LoopbackWorld, run, topology

    made = topology(
        hypervisor=HypervisorConfig(vmc=HypervisorVmc(max_mtu=16384)).model_dump(),
        partition=[PartitionConfig(name="mp", management=True, vmc=PartitionVmc(max_mtu=mtu)).model_dump()],
    )

    async def scenario(lab: InProcessLab) -> None:
        async with await lab.session() as session:
            assert session.mtu == mtu
            message = bytes(i % 251 for i in range(mtu))
            assert await session.exchange(message) == message

    run(LoopbackWorld(), scenario, made, None)


@pytest.mark.parametrize("mtu", [32, 33, 1000, 4095])
@behaviour(worlds=LOOPBACKS[:1], hypervisor=HypervisorConfig(vmc=HypervisorVmc(max_mtu=2000)).model_dump())
async def test_mtu_is_found_out_below_the_usual(lab: InProcessLab, mtu: int) -> None:
    """Asked of a driver that takes any count up to ``mtu``."""
    partition = lab.partition()
    partition.adapter.machine._context.mtu = mtu
    async with await lab.device() as device:
        assert await device.mtu() == mtu
    partition.adapter.machine._context.mtu = 2000


@behaviour()
async def test_dropped_file_is_closed_without_waiting(lab: InProcessLab) -> None:
    device = await (await lab.device()).open()
    assert await opens(lab) == 2
    device.drop()
    device.drop()
    await device.close()

    async def closed() -> bool:
        return await opens(lab) == 1

    await eventually(closed)


@behaviour()
async def test_a_message_that_a_cancelled_read_takes_is_for_the_read_behind_it(lab: InProcessLab) -> None:
    """The interrupt may come after the message: then the next read must not wait for another one."""
    async with await lab.device() as device:
        session = VmcSession(device, "cancel")
        await session.connect()
        for _ in range(20):
            reading = asyncio.ensure_future(device.read())
            await asyncio.sleep(0)
            reading.cancel()
            await session.send(b"kept")
            assert await device.read() == b"kept"
    await lab.leave()
