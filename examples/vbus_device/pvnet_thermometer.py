"""A thermometer as a vbus device, and the driver with which a partition reads it.

Class ``thermometer``, type ``example-thermometer``, version 1.  Devcall 0 stores the temperature in 4 bytes of data:
a signed number of thousandths of a degree Celsius, little endian.  The administrator says how warm it is:
``pvnet vbus device set NAME celsius=21.5``.
"""

import struct
from collections.abc import Mapping

from pvnet.papr.errno import EBUSY, EINVAL, ENOENT, EPERM
from pvnet.vbus.device import Connection, ConnectionHost, Region
from pvnet.vbus.errors import VbusError
from pvnet.vbus.north_driver import ProxyDevice, Steps

READ = 0
TEMPERATURE = struct.Struct("<i")


class Thermometer:
    """The device, on the vbus host's side; it is its own connection, since one partition at a time may open it."""

    type = "example-thermometer"

    def __init__(self) -> None:
        self.milli = 20_000
        self.reads = 0
        self.is_open = False

    def open(self, version: int, host: ConnectionHost) -> Connection:
        if version != 1:
            raise VbusError(EINVAL, f"thermometer version {version}: expected 1")
        if self.is_open:
            raise VbusError(EBUSY, "the thermometer is open")
        self.is_open = True
        return self

    # The connection

    def call(self, func: int, data: memoryview, flags: int) -> int:
        if func != READ or flags or len(data) != TEMPERATURE.size:
            raise VbusError(EINVAL, "expected READ with 4 bytes")
        TEMPERATURE.pack_into(data, 0, self.milli)
        self.reads += 1
        return TEMPERATURE.size

    def shm(self, id: int, region: Region, flags: int) -> None:
        raise VbusError(EINVAL, "a thermometer has no regions")

    def release(self) -> None:
        self.is_open = False

    # Attributes

    def attributes(self) -> Mapping[str, str]:
        return {"celsius": str(self.milli / 1000), "reads": str(self.reads)}

    def get(self, key: str) -> str:
        if key not in self.attributes():
            raise VbusError(ENOENT, f"a thermometer has no attribute {key!r}")
        return self.attributes()[key]

    def set(self, key: str, value: str) -> None:
        self.get(key)
        if key != "celsius":
            raise VbusError(EPERM, f"{key!r} is read-only")
        try:
            milli = round(float(value) * 1000)
        except (ValueError, OverflowError):
            raise VbusError(EINVAL, f"celsius {value!r}: expected a number") from None
        if abs(milli) > 1_000_000:
            raise VbusError(EINVAL, f"celsius {value!r}: expected -1000 to 1000")
        self.milli = milli

    def close(self) -> None:
        """Both the end of a connection and that of the device: there is nothing to end."""


class ThermometerClass:
    """Makes thermometers."""

    name = "thermometer"
    type = Thermometer.type

    def create(self, name: str, attributes: Mapping[str, str]) -> Thermometer:
        device = Thermometer()
        for key, value in attributes.items():
            device.set(key, value)
        return device


THERMOMETER = ThermometerClass()
"""Entry point of group ``pvnet.devices``."""


class ThermometerDriver:
    """Entry point of group ``pvnet.drivers``, named as the type: opens each thermometer and reads it once."""

    def __init__(self) -> None:
        self.milli: dict[int, int] = {}

    def probe(self, device: ProxyDevice) -> Steps:
        yield device.open(version=1)
        data = bytearray(TEMPERATURE.size)
        yield device.call(READ, data)
        (self.milli[device.id],) = TEMPERATURE.unpack(data)

    def remove(self, device: ProxyDevice) -> Steps:
        self.milli.pop(device.id, None)
        yield from ()
