"""The driver of FBA disks: lost interrupts, halts, devices that vanish; and a disk like any other."""

from __future__ import annotations

import dataclasses

import pytest
from ccw_guest_rig import errno_of, probed, read, runner, shown, write, writes_of_region_0
from ccw_rig import RamStore
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_guest import CCW_GUEST, TIMEOUT_S, FbaDriver
from pvnet.mdev.ccw_layout import Irb
from pvnet.mdev.ccw_status import NOT_OPERATIONAL, broken
from pvnet.mdev.names import CcwIrq
from pvnet.papr.errno import EAGAIN, EBUSY, EIO, ENODEV

# --- timeouts ---------------------------------------------------------------------------------------------------------


def test_a_lost_interrupt_is_halted_and_repeated() -> None:
    guest, device, _ = probed()
    device.lies = [None]
    before = guest.timers.now
    assert read(guest, 0, 512) == bytes(512)
    assert guest.timers.now - before == TIMEOUT_S
    assert (shown(guest)["timeouts"], shown(guest)["halts"]) == (1, 1)
    device.lies = [None, None]
    assert errno_of(lambda: read(guest, 0, 512)) == EIO


@pytest.mark.parametrize("errno", [0, EAGAIN, EBUSY])
def test_what_cannot_be_halted_is_cleared(errno: int) -> None:
    guest, device, _ = probed()
    device.lies = [None]
    device.deaf = {1: errno}
    assert read(guest, 0, 512) == bytes(512)
    assert (shown(guest)["halts"], shown(guest)["clears"]) == (1, 1)


def test_what_cannot_be_cleared_either() -> None:
    guest, device, _ = probed()
    device.lies = [None]
    device.deaf = {1: 0, 2: 0}
    assert errno_of(lambda: read(guest, 0, 512)) == EIO
    device.deaf.clear()
    assert read(guest, 0, 512) == bytes(512)


def test_devices_that_vanish() -> None:
    guest, device, _ = probed()
    device.lies = [None]
    device.deaf = {1: ENODEV}
    assert errno_of(lambda: read(guest, 0, 512)) == ENODEV
    device.not_operational()
    assert errno_of(lambda: read(guest, 0, 512)) == EIO


def test_devices_without_extra_regions() -> None:
    guest, device, _ = runner()
    context = dataclasses.replace(guest.context, regions=guest.context.regions[:1])
    driver = CCW_GUEST.create(context)
    assert isinstance(driver, FbaDriver)
    guest.driver = driver
    guest.probe()
    device.vary(online=False)
    device.vary(online=True)
    assert CcwIrq.CRW not in guest.host.enabled
    device.lies = [None]
    assert errno_of(lambda: read(guest, 0, 512)) == EIO
    guest.run(driver.irq(CcwIrq.CRW))
    assert shown(guest)["unsolicited"] == 1
    assert errno_of(lambda: read(guest, 0, 512)) == EBUSY
    guest.remove()


def test_irqs_that_nobody_waits_for() -> None:
    guest, device, _ = probed()
    guest.host.signal(CcwIrq.IO)
    guest.host.signal(CcwIrq.CRW)
    guest.serve()
    assert shown(guest)["unsolicited"] == 1
    assert "reports" not in shown(guest)
    for _ in range(20):
        device.vary(online=False)
        device.vary(online=True)
    guest.serve()
    assert (shown(guest)["reports"], shown(guest)["reports_lost"]) == (16, 1)
    assert writes_of_region_0(guest) == 2


# --- a disk like any other --------------------------------------------------------------------------------------------


class DiskMachine(RuleBasedStateMachine):
    """Reads and writes through the driver are those of a bytearray, whatever goes wrong in between."""

    def __init__(self) -> None:
        super().__init__()
        self.guest, self.device, self.store = probed(RamStore(120 * 512), CcwConfig(durable=False))
        self.model = bytearray(self.store.size)

    @rule(
        offset=st.integers(0, 120 * 512 - 1), data=st.binary(min_size=1, max_size=1500), times=st.sampled_from([1, 40])
    )
    def write(self, offset: int, data: bytes, times: int) -> None:
        data = (data * times)[: self.store.size - offset]
        assert write(self.guest, offset, data) == len(data)
        self.model[offset : offset + len(data)] = data

    @rule(offset=st.integers(0, 120 * 512), count=st.integers(0, 60_000))
    def read(self, offset: int, count: int) -> None:
        assert read(self.guest, offset, count) == self.model[offset : offset + count]

    @rule(lie=st.sampled_from([None, NOT_OPERATIONAL, broken(0, 0x02), broken(0, 0x08)]))  # type: ignore[arg-type]
    def trouble(self, lie: Irb | None) -> None:
        self.device.lies = [lie]
        if lie is NOT_OPERATIONAL:
            assert errno_of(lambda: read(self.guest, 0, 1)) == ENODEV
        else:
            assert read(self.guest, 0, 1) == self.model[:1]

    @rule()
    def unplug(self) -> None:
        self.device.vary(online=False)
        assert errno_of(lambda: write(self.guest, 0, b"x" * 512)) == ENODEV
        self.device.vary(online=True)

    @invariant()
    def same(self) -> None:
        assert self.store.data == self.model


TestDisk = DiskMachine.TestCase
TestDisk.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
