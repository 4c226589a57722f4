"""Devices of a partition beyond venet: drivers of other packages, and single devcalls to what has no driver.

A package adds a driver by an entry point of group ``pvnet.drivers`` whose name is the device type: something that is
called without arguments and returns a :class:`~pvnet.vbus.north_driver.NorthDriver`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from pvnet.core.errors import RefusedError
from pvnet.pb.v1.management_pb2 import VbusDevcall
from pvnet.vbus.device import MAX_CALL_DATA
from pvnet.vbus.errors import VbusError
from pvnet.vbus.north import VbusNorth
from pvnet.vbus.north_driver import NorthDriver, ProxyDevice, Steps

DRIVERS_GROUP: Final = "pvnet.drivers"
"""Entry points of drivers."""


def load_drivers(log: Callable[[str, str], None]) -> dict[str, NorthDriver]:
    """Return a driver of each installed package, by device type; ``log(name, why)`` hears of those that fail."""
    found: dict[str, NorthDriver] = {}
    for point in entry_points(group=DRIVERS_GROUP):
        try:
            found[point.name] = point.load()()
        except Exception as error:  # noqa: BLE001 - somebody else's package must not keep the partition from starting
            log(point.name, f"{type(error).__name__}: {error}")
    return found


class RawDriver:
    """Binds to a device and leaves it closed."""

    def probe(self, device: ProxyDevice) -> Steps:  # noqa: ARG002 - part of the interface
        """Do nothing."""
        yield from ()

    def remove(self, device: ProxyDevice) -> Steps:  # noqa: ARG002
        """Do nothing."""
        yield from ()


async def raw_devcall(machine: VbusNorth, command: VbusDevcall, turn: Callable[[], None]) -> dict[str, object]:
    """Open a device, make one devcall, close it.

    Raises:
        RefusedError: there is no such device, it has a driver, or the host refused.
    """
    proxy = machine.tasks.devices.get(command.device)
    if proxy is None:
        known = ", ".join(f"{d.id} ({d.type})" for d in machine.tasks.devices.values()) or "none"
        raise RefusedError(f"no device {command.device}; there are: {known}")
    if proxy.driver is None:
        machine.add_driver(proxy.type, RawDriver())
        turn()
    if not isinstance(proxy.driver, RawDriver):
        raise RefusedError(f"device {command.device} ({proxy.type}) has a driver")
    if len(command.data) > MAX_CALL_DATA:
        raise RefusedError(f"{len(command.data)} bytes: expected at most {MAX_CALL_DATA}")
    done: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    def steps() -> Steps:
        try:
            yield proxy.open(command.version)
            data = bytearray(command.data)
            try:
                result = yield proxy.call(command.func, data)
            finally:
                if proxy.handle:
                    yield proxy.close()
            if not done.done():
                done.set_result({"result": result, "data": data.hex()})
        except VbusError as error:
            if not done.done():
                done.set_exception(RefusedError(f"device {command.device}: {error}"))
        finally:
            if not done.done():
                done.set_exception(RefusedError(f"device {command.device} has gone"))

    proxy.run(steps())
    turn()
    return await done
