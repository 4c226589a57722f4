"""A runner of the FBA driver, with a subchannel that can be made to lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from ccw_rig import RamStore
from guest_runner import GuestRunner

from pvnet.mdev.ccw_config import CcwConfig
from pvnet.mdev.ccw_guest import CCW_GUEST
from pvnet.mdev.ccw_layout import Irb
from pvnet.mdev.ccw_regions import ASYNC_REGION, IO_REGION
from pvnet.mdev.ccw_subchannel import CcwDevice
from pvnet.mdev.device import Steps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guest import RegionWrite

SIZE = 300 * 512


class OddDevice(CcwDevice):
    """A subchannel that a test can make lie.

    :ivar refusals: raised by the next writes of region 0, in order.
    :ivar lies: statuses of the next programs instead of the true ones; None: no interrupt at all.
    :ivar deaf: async commands that end without an interrupt, or with an error.
    """

    def __init__(self, store: RamStore, config: CcwConfig) -> None:
        super().__init__(store, config, lambda: None)
        self.refusals: list[int] = []
        self.lies: list[Irb | None] = []
        self.deaf: dict[int, int] = {}

    def write(self, region: int, offset: int, data: bytes) -> Steps[None] | None:
        if region == IO_REGION and self.refusals:
            raise MdevError(self.refusals.pop(0))
        if region == ASYNC_REGION and data[0] in self.deaf:
            errno = self.deaf[data[0]]
            if errno:
                raise MdevError(errno)
            return None
        return super().write(region, offset, data)

    def _status(self, irb: Irb) -> None:
        if self.lies and self._program is not None and irb.scsw.is_final:
            lie = self.lies.pop(0)
            if lie is None:
                self._program = None
                return
            irb = lie
        super()._status(irb)


def runner(
    store: RamStore | None = None, config: CcwConfig | None = None, **more: Any
) -> tuple[GuestRunner, OddDevice, RamStore]:
    store = store or RamStore(SIZE)
    device = OddDevice(store, config or CcwConfig())
    guest = GuestRunner(device, CCW_GUEST, **more)
    return guest, device, store


def probed(store: RamStore | None = None, config: CcwConfig | None = None) -> tuple[GuestRunner, OddDevice, RamStore]:
    guest, device, store = runner(store, config)
    guest.probe()
    return guest, device, store


def shown(guest: GuestRunner) -> Mapping[str, object]:
    return guest.driver.shown()


def read(guest: GuestRunner, offset: int, count: int) -> bytes:
    return guest.run(guest.file("dasd").read(offset, count))


def write(guest: GuestRunner, offset: int, data: bytes) -> int:
    return guest.run(guest.file("dasd").write(offset, data))


def errno_of(call: Callable[[], object]) -> int:
    with pytest.raises(MdevError) as error:
        call()
    return error.value.errno


def writes_of_region_0(guest: GuestRunner) -> int:
    return sum(isinstance(request, RegionWrite) and request.region == IO_REGION for request in guest.requests)
