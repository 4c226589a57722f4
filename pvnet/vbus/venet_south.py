"""The device ``venet``: a virtual ethernet whose host side is the port of a switch.

Whoever has the switch plugs :attr:`VenetDevice.port` into it and sets :attr:`VenetDevice.receive` to be given the
guest's packets.  Class ``venet`` (and ``venet-tap``, the original's name of its usual class, which does the same here:
what is behind the port is not the device's business); type ``virtual-ethernet``.

Attributes:

============  ====  =======  ===================================================================================
key           set   default  what it does
============  ====  =======  ===================================================================================
host_mac      no    made     address of the host's side; shown only
client_mac    1)    made     address that MACQUERY tells the guest
enabled       yes   1        0 pulls the cable out: frames are thrown away, LINKSTATE tells
ifname        no    name     name of the port
mtu           1)    1500     most bytes of a frame of the guest after its ethernet header
txmitigation  yes   10       completions per signal; 0: each
burstthresh   yes   0        microseconds; accepted and shown, has no effect: there is no second thread to hand work to
zcthresh      yes   512      bytes; accepted and shown, has no effect: every frame is taken without a copy
============  ====  =======  ===================================================================================

1) while the device is not open.

Spec: vbus 8, 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from pvnet.core.machine import Counters
from pvnet.papr.errno import EBUSY, EINVAL, ENOENT, EPERM
from pvnet.vbus.device import ConnectionHost
from pvnet.vbus.errors import VbusError
from pvnet.vbus.packet import MAX_MTU, MIN_MTU, Packet
from pvnet.vbus.venet_connection import VenetConnection
from pvnet.vbus.venet_layout import VENET_TYPE, VENET_VERSION, Traffic

MAC_BYTES: Final = 6
_LIMITS: Final = {
    "enabled": (0, 1),
    "mtu": (MIN_MTU, MAX_MTU),
    "txmitigation": (0, 2048),
    "burstthresh": (0, 1_000_000),
    "zcthresh": (0, 65536),
}
_DEFAULTS: Final = {"enabled": 1, "mtu": 1500, "txmitigation": 10, "burstthresh": 0, "zcthresh": 512}
_ONLY_CLOSED: Final = frozenset({"client_mac", "mtu"})
_READ_ONLY: Final = frozenset({"host_mac", "ifname"})


def format_mac(mac: bytes) -> str:
    """``02:00:00:00:02:01``."""
    return mac.hex(":")


def parse_mac(text: str) -> bytes:
    """Six bytes of ``02:00:00:00:02:01``.

    :raises VbusError: EINVAL, not a unicast address.
    """
    parts = text.lower().split(":")
    digits = set("0123456789abcdef")
    if len(parts) != MAC_BYTES or any(len(part) != 2 or not digits.issuperset(part) for part in parts):
        raise VbusError(EINVAL, f"{text!r} is no MAC address such as 02:00:00:00:00:01")
    mac = bytes.fromhex("".join(parts))
    if mac[0] & 1 or not any(mac):
        raise VbusError(EINVAL, f"{text!r} is no unicast MAC address")
    return mac


def made_mac(name: str, side: str) -> bytes:
    """A locally administered address that depends on the device's name only."""
    return b"\x02" + hashlib.sha256(f"{side} {name}".encode()).digest()[: MAC_BYTES - 1]


class VenetPort:
    """The host's end of the cable, as a switch sees it (:class:`pvnet.vbus.packet.NetPort`)."""

    __slots__ = ("_device",)

    def __init__(self, device: VenetDevice) -> None:
        self._device = device

    @property
    def name(self) -> str:
        """The device's name."""
        return self._device.name

    @property
    def mtu(self) -> int:
        """Most bytes of a frame after its ethernet header."""
        return self._device.mtu

    @property
    def accepts(self) -> int:
        """Sum of ``ACCEPTS_...`` bits: what the guest agreed to by L4RO."""
        connection = self._device.connection
        return 0 if connection is None else connection.accepts

    def deliver(self, packets: list[Packet]) -> int:
        """Give packets to the guest; returns how many were taken."""
        connection = self._device.connection
        return 0 if connection is None else connection.deliver(packets)


class VenetDevice:
    """A venet; see the module's text and :class:`pvnet.vbus.device.Device`."""

    type = VENET_TYPE

    def __init__(self, name: str, attributes: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.client_mac = made_mac(name, "client")
        self.host_mac = made_mac(name, "host")
        self.counters = Counters()
        """What did not go through, and why."""
        self.traffic = Traffic()
        """What went through; ``tx`` is what the guest sent."""
        self.connection: VenetConnection | None = None
        """The one opener's."""
        self.port = VenetPort(self)
        self.receive: Callable[[list[Packet]], None] = self._nowhere
        """Gets the guest's packets, valid during the call only; set by whoever plugs the port in."""
        self._numbers = dict(_DEFAULTS)
        for key, value in (attributes or {}).items():
            self.set(key, value)

    @property
    def mtu(self) -> int:
        """Bytes."""
        return self._numbers["mtu"]

    @property
    def txmitigation(self) -> int:
        """Completions per signal."""
        return self._numbers["txmitigation"]

    @property
    def carrier(self) -> bool:
        """Whether the cable is in."""
        return self._numbers["enabled"] == 1

    def open(self, version: int, host: ConnectionHost) -> VenetConnection:
        """Open for one client.

        :raises VbusError: EINVAL, the version is not 1; EBUSY, open already.
        """
        if version != VENET_VERSION:
            raise VbusError(EINVAL, f"venet version {version}, expected {VENET_VERSION}")
        if self.connection is not None:
            raise VbusError(EBUSY, f"{self.name} is open")
        self.connection = VenetConnection(self, host)
        return self.connection

    def disconnected(self, connection: VenetConnection) -> None:
        """The connection was closed."""
        if self.connection is connection:
            self.connection = None

    def attributes(self) -> Mapping[str, str]:
        """All attributes."""
        texts = {"host_mac": format_mac(self.host_mac), "client_mac": format_mac(self.client_mac), "ifname": self.name}
        return texts | {key: str(value) for key, value in self._numbers.items()}

    def get(self, key: str) -> str:
        """One attribute.

        :raises VbusError: ENOENT.
        """
        value = self.attributes().get(key)
        if value is None:
            raise VbusError(ENOENT, f"venet has no attribute {key!r}")
        return value

    def set(self, key: str, value: str) -> None:
        """Change an attribute.

        :raises VbusError: ENOENT, EPERM, EINVAL.
        """
        if key in _READ_ONLY:
            raise VbusError(EPERM, f"{key} is read-only")
        if key not in _LIMITS and key != "client_mac":
            raise VbusError(ENOENT, f"venet has no attribute {key!r}")
        if key in _ONLY_CLOSED and self.connection is not None:
            raise VbusError(EINVAL, f"{key} cannot change while the device is open")
        if key == "client_mac":
            self.client_mac = parse_mac(value)
            return
        least, most = _LIMITS[key]
        if not value.isascii() or not value.isdecimal() or not least <= int(value) <= most:
            raise VbusError(EINVAL, f"{key} = {value!r}: expected {least} to {most}")
        before, self._numbers[key] = self._numbers[key], int(value)
        if self.connection is not None and before != self._numbers[key]:
            if key == "enabled":
                self.connection.carrier_changed(self.carrier)
            else:
                self.connection.settings_changed()

    def close(self) -> None:
        """The device is removed: nothing goes anywhere any more."""
        self.receive = self._nowhere

    def _nowhere(self, packets: list[Packet]) -> None:
        self.counters["tx_unplugged"] += len(packets)


class VenetClass:
    """Makes venets; ``name`` is what an administrator types."""

    type = VENET_TYPE

    def __init__(self, name: str = "venet") -> None:
        self.name = name

    def create(self, name: str, attributes: Mapping[str, str]) -> VenetDevice:
        """Make the device ``name``.

        :raises VbusError: a wrong attribute.
        """
        return VenetDevice(name, attributes)


VENET: Final = VenetClass()
VENET_TAP: Final = VenetClass("venet-tap")
"""The same under the original's name."""
