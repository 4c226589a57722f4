"""Every errno of the character device as a client process sees it, condition by condition (Spec: vmc 1.3, 1.4)."""

from __future__ import annotations

import asyncio
import errno

import pytest
from behaviour_worlds import RawFile, behaviour, errno_of, eventually, set_fault

from pvnet.client.device import VmcDevice
from pvnet.core.errors import DeviceError
from pvnet.papr.hcall import HcallRc
from pvnet.papr.platform_io import FaultPoint
from pvnet.runtime.topology import HYPERVISOR
from pvnet.testing.in_process import InProcessLab
from pvnet.vmc.context import VmcState
from pvnet.vmc.messages import RemoveBuffer, encode_vmc

LATER = 1_000_000
"""A count of faults that no test uses up."""


async def state(lab: InProcessLab) -> VmcState:
    async with await lab.device("looker") as device:
        return VmcState((await device.query()).state)


async def opened(lab: InProcessLab) -> RawFile:
    file = RawFile(await lab.client())
    assert await file.open() > 0
    return file


async def ready(file: RawFile) -> None:
    """SETHMCID, then until the session is open: write() of nothing is 0 only then."""
    assert await file.set_hmc_id() == 0

    async def is_ready() -> bool:
        result = await file.write(b"")
        assert result in (0, -errno.EBUSY)
        return result == 0

    await eventually(is_ready)


@behaviour()
async def test_no_connection_yet(lab: InProcessLab) -> None:
    file = await opened(lab)
    assert await file.write() == -errno.EIO
    assert await file.write(b"") == -errno.EIO
    assert await file.read(0) == 0
    assert await file.read(4097) == -errno.EINVAL
    assert await file.read() == -errno.EIO
    assert await file.poll() == 0
    assert await file.close() == 0


@behaviour()
async def test_ioctls_and_handles_that_do_not_exist(lab: InProcessLab) -> None:
    file = await opened(lab)
    assert (await file.ioctl(0x1234)).result == -errno.EINVAL
    other = RawFile(await lab.client("other"))
    other.handle = file.handle
    for result in (await other.write(), await other.read(), await other.poll(), await other.close()):
        assert result == -errno.EBADF, "a process reaches only its own files"
    assert await file.close() == 0
    assert await file.close() == -errno.EBADF
    assert await RawFile(await lab.client()).open("/dev/null") == -errno.ENOENT
    assert await RawFile(await lab.client(), "lpar1").open() == -errno.ENOENT
    device = VmcDevice(await lab.client())
    with pytest.raises(DeviceError) as caught:
        await device.write(b"never opened")
    assert caught.value.errno == errno.EBADF


@behaviour()
async def test_id_that_cannot_be_read_may_be_given_again(lab: InProcessLab) -> None:
    """HMC state initial."""
    file = await opened(lab)
    assert await file.set_hmc_id(b"short") == -errno.EFAULT
    assert await file.write() == -errno.EIO
    assert await file.read() == -errno.EAGAIN
    assert await file.poll() == 0
    await ready(file)
    assert await file.set_hmc_id() == -errno.EIO
    assert await file.close() == 0


@behaviour()
async def test_reserved_connection_is_free_again_after_close(lab: InProcessLab) -> None:
    for _ in range(10):  # more often than there are connections
        file = await opened(lab)
        assert await file.set_hmc_id(b"short") == -errno.EFAULT
        assert await file.close() == 0


@behaviour()
async def test_connection_that_is_opening(lab: InProcessLab) -> None:
    file = await opened(lab)
    set_fault(lab, FaultPoint.DELIVER, count=1)  # what the hypervisor says stays there
    assert await file.set_hmc_id() == 0
    assert await file.write() == -errno.EBUSY
    assert await file.set_hmc_id() == -errno.EIO
    assert await file.read() == -errno.EAGAIN
    assert await file.poll() == 0
    set_fault(lab, FaultPoint.DELIVER, count=0)

    async def is_open() -> bool:
        return await file.write(b"") == 0

    await eventually(is_open)
    assert await file.close() == 0


@behaviour()
async def test_close_while_opening_gives_the_connection_back(lab: InProcessLab) -> None:
    file = await opened(lab)
    set_fault(lab, FaultPoint.DELIVER, count=1)
    assert await file.set_hmc_id() == 0
    assert await file.close() == 0
    set_fault(lab, FaultPoint.DELIVER, count=0)


@behaviour()
async def test_connection_that_is_open(lab: InProcessLab) -> None:
    file = await opened(lab)
    await ready(file)
    assert await file.write(bytes(4096)) == 4096
    assert await file.write(bytes(4097)) == -errno.EIO
    await eventually(lambda: is_in(file))
    assert await file.read(4097) == -errno.EINVAL
    assert await file.read(4096) == 4096
    assert await file.read() == -errno.EAGAIN
    assert await file.close() == 0


async def is_in(file: RawFile) -> bool:
    return bool(await file.poll())


@behaviour()
async def test_hypervisor_that_is_gone(lab: InProcessLab) -> None:
    """HMC free after a transport event; VMC state crqinit."""
    before, unopened = await opened(lab), await opened(lab)
    await ready(before)
    device = await (await lab.device()).open()
    await device.set_hmc_id("reader")
    reading = asyncio.ensure_future(device.read())
    await eventually(lambda: blocked_reads(lab, 2))  # and the manager's
    await lab.crash(HYPERVISOR)
    assert await errno_of(reading) == errno.EBADFD
    assert await state(lab) is VmcState.CRQINIT
    assert await before.read() == -errno.EBADFD
    assert await before.write() == -errno.EIO
    assert await before.set_hmc_id() == -errno.EIO
    assert await before.poll() == 0
    assert await unopened.set_hmc_id() == -errno.EAGAIN
    assert await unopened.write() == -errno.EIO
    assert await unopened.read() == -errno.EIO
    assert await unopened.poll() == 0
    assert await before.close() == 0
    assert await unopened.close() == 0
    await device.close()
    await lab.start(HYPERVISOR)


async def blocked_reads(lab: InProcessLab, number: int) -> bool:
    return (await lab.status("mp"))["device_calls_under_way"] == number


@behaviour()
async def test_link_that_has_failed(lab: InProcessLab) -> None:
    with_session, without = await opened(lab), await opened(lab)
    await ready(with_session)
    await lab.crash(HYPERVISOR)
    await lab.start(HYPERVISOR)
    set_fault(lab, FaultPoint.REGISTER, HcallRc.H_HARDWARE, LATER)

    async def has_failed() -> bool:
        return await state(lab) is VmcState.FAILED

    await eventually(has_failed)
    assert await without.set_hmc_id() == -errno.EIO
    assert await without.write() == -errno.EIO
    assert await without.read() == -errno.EIO
    assert await without.poll() == 0
    assert await with_session.write() == -errno.EIO
    assert await with_session.read() == -errno.EBADFD
    assert await with_session.close() == -errno.EIO
    assert await without.close() == 0
    await lab.crash(HYPERVISOR)
    await lab.start(HYPERVISOR)


@behaviour()
async def test_connection_without_a_buffer_keeps_all_from_opening(lab: InProcessLab) -> None:
    file = await opened(lab)
    hypervisor = lab.hypervisor
    unit = int(hypervisor.layouts["mp"].vmc.unit)
    hypervisor.carry_all(hypervisor.platform.partner_post("mp", unit, encode_vmc(RemoveBuffer(0, 3))))
    set_fault(lab, FaultPoint.DELIVER, count=1)

    async def no_buffers() -> bool:
        return lab.partition().adapter.machine.sessions.connections.slots[3].pool.counts() == {}

    await eventually(no_buffers)
    assert await file.set_hmc_id() == -errno.ENOBUFS
    assert await file.close() == 0
    await lab.crash(HYPERVISOR)
    await lab.start(HYPERVISOR)


@behaviour()
async def test_failed_copies(lab: InProcessLab) -> None:
    file = await opened(lab)
    set_fault(lab, FaultPoint.COPY, HcallRc.H_HARDWARE)
    assert await file.set_hmc_id() == -errno.EIO
    await ready(file)
    set_fault(lab, FaultPoint.COPY, HcallRc.H_HARDWARE)
    assert await file.write() == -errno.EIO
    assert await file.write() == 1
    await eventually(lambda: is_in(file))
    assert await file.close() == 0


@pytest.mark.parametrize(
    ("rc", "expected"),
    [
        (HcallRc.H_FUNCTION, errno.EPERM),
        (HcallRc.H_AUTHORITY, errno.EPERM),
        (HcallRc.H_NOT_AVAILABLE, errno.EPERM),
        (HcallRc.H_HARDWARE, errno.EIO),
        (HcallRc.H_RESOURCE, errno.ENODEV),
        (HcallRc.H_PARAMETER, errno.EINVAL),
    ],
)
@behaviour()
async def test_request_vmc_tells_why_not(lab: InProcessLab, rc: HcallRc, expected: int) -> None:
    async with await lab.device() as device:
        set_fault(lab, FaultPoint.REQUEST_VMC, rc)
        assert await errno_of(device.request_vmc()) == expected
        assert (await device.query()).vmc_drc_index == 0
        assert await device.request_vmc() == 0x30000001
        query = await device.query()
        assert (query.have_vmc, query.state, query.vmc_drc_index) == (True, VmcState.READY, 0x30000001)


@pytest.mark.parametrize("rc", [HcallRc.H_BUSY, HcallRc.H_LONG_BUSY_ORDER_1_MSEC, HcallRc.H_LONG_BUSY_ORDER_10_MSEC])
@behaviour()
async def test_request_vmc_repeats_what_is_busy(lab: InProcessLab, rc: HcallRc) -> None:
    async with await lab.device() as device:
        set_fault(lab, FaultPoint.REQUEST_VMC, rc, 3)
        assert await device.request_vmc() == 0x30000001
