"""TAP devices: a network interface of the kernel whose other end is this process.

Every frame has a ``struct virtio_net_hdr`` of 10 bytes in front (IFF_VNET_HDR): with offloads on, the kernel hands over
and takes TCP in pieces of up to 64 KiB with the checksum left to do, which is about nine times as fast as frame by
frame.  Everything is set up by ioctl; no program is run.

Needs root or CAP_NET_ADMIN, unless the device exists already and belongs to this user
(``ip tuntap add NAME mode tap vnet_hdr user USER``).  The rights to use such a device are not those to change it: what
is not as it was wanted stays as whoever made it has set it, and :attr:`Tap.left_as_is` says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import Final

from pvnet.core.errors import ConfigError, UnavailableError
from pvnet.runtime.netns import entered

VNET_HEADER_BYTES: Final = 10
MAX_FRAME: Final = VNET_HEADER_BYTES + 65536 + 64
"""Room that a buffer for one read needs."""

_DEVICE: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_F_CSUM_TSO4_TSO6_ECN: Final = 0x0F
"""The same bits as ``ACCEPTS_TAP``."""

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCGIFADDR: Final = 0x8915
_SIOCSIFADDR: Final = 0x8916
_SIOCGIFNETMASK: Final = 0x891B
_SIOCSIFNETMASK: Final = 0x891C
_SIOCGIFMTU: Final = 0x8921
_SIOCSIFMTU: Final = 0x8922
_SIOCSIFHWADDR: Final = 0x8924
_SIOCGIFHWADDR: Final = 0x8927
_SIOCGIFINDEX: Final = 0x8933
_IFF_UP: Final = 0x1
_ARPHRD_ETHER: Final = 1

_IFREQ_BYTES: Final = 40
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")

NOT_PERMITTED: Final = (
    "needs root or CAP_NET_ADMIN; without a TAP the built-in responder (ARP, ping, UDP echo) answers for the partition"
)


@dataclass(frozen=True, slots=True)
class TapOptions:
    """What the interface shall be.  ``None`` leaves a property as it is.

    ``namespace`` is a name of ``ip netns`` or a path; ``create`` false takes only an interface that is there;
    ``addresses`` are like ``10.0.0.1/24`` or ``fd00::1/64`` (of IPv4 addresses there can be one); ``offloads`` lets the
    kernel hand over packets of up to 64 KiB with work left to do (it takes them in any case).
    """

    name: str
    namespace: str | None = None
    create: bool = True
    offloads: bool = True
    mtu: int | None = None
    mac: bytes | None = None
    addresses: tuple[str, ...] = ()
    up: bool = True


@dataclass(frozen=True, slots=True)
class LeftAsIs:
    """A property of an interface that was there before, which we have no right to change."""

    what: str
    wanted: str


class Tap:
    """An open TAP device, non-blocking.  An interface that this made goes away when it is closed.

    :ivar left_as_is: what differs from the options, on an interface that was there before and is not ours to change.
    :ivar mtu, mac: what the interface has.
    """

    def __init__(self, options: TapOptions) -> None:
        """Open, and make and set up the interface as the options say; blocks for some milliseconds.

        Raises:
            UnavailableError: not with our rights, or the machine has no TAPs; with what would help.
            ConfigError: it cannot be had for another reason.
        """
        if not _NAME.fullmatch(options.name) or options.name in (".", ".."):
            raise ConfigError(f"TAP {options.name!r}: a name has 1 to 15 letters, digits or . _ -")
        addresses = [_parsed(address, options.name) for address in options.addresses]
        self.name = options.name
        self.namespace = options.namespace
        self._offloads = options.offloads
        self._fd = -1
        with entered(options.namespace):
            try:
                was_there = _exists(options.name)
                self._fd = self._open(options)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
                    self.left_as_is = tuple(_set_up(control, options, addresses, may_stay=was_there))
                    self.mtu: int = _get_int(control, _SIOCGIFMTU, self.name)
                    self.mac: bytes = _ioctl(control, _SIOCGIFHWADDR, _ifreq(self.name))[18:24]
            except BaseException:
                self.close()
                raise

    def _open(self, options: TapOptions) -> int:
        name = options.name
        if not options.create and not _exists(name):
            raise ConfigError(f"TAP {name}: no such interface; make it with: ip tuntap add {name} mode tap vnet_hdr")
        try:
            fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise UnavailableError(f"TAP {name}: {_DEVICE} may not be opened: {NOT_PERMITTED}") from None
            raise UnavailableError(
                f"TAP {name}: {_DEVICE}: {error.strerror}; the kernel module 'tun' is needed (modprobe tun)"
            ) from None
        try:
            request = bytearray(_ifreq(name, struct.pack("<H", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)))
            fcntl.ioctl(fd, _TUNSETIFF, request)
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", VNET_HEADER_BYTES))
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM_TSO4_TSO6_ECN if options.offloads else 0)
        except OSError as error:
            os.close(fd)
            raise _problem(error)(f"TAP {name}: {_why(error)}") from None
        return fd

    def set_offloads(self, accepts: int) -> None:
        """Let the kernel leave undone what ``ACCEPTS_...`` bits name and no other work, if offloads were asked for.

        Frames that wait in the kernel's queue are as they are.

        Raises:
            OSError: the interface is gone.
        """
        if self._offloads and self._fd >= 0:
            fcntl.ioctl(self._fd, _TUNSETOFFLOAD, accepts & _TUN_F_CSUM_TSO4_TSO6_ECN)

    def fileno(self) -> int:
        """Return the file descriptor, -1 when closed."""
        return self._fd

    def readinto(self, buffer: memoryview) -> int:
        """Read one frame with its header into ``buffer``; 0 if there is none now.

        Raises:
            OSError: the interface is gone (EBADFD) or down.
        """
        try:
            return os.readv(self._fd, (buffer,))
        except BlockingIOError:
            return 0

    def readv(self, buffers: Sequence[memoryview]) -> int:
        """Read one frame into several buffers, the first of 10 bytes for the header; 0 if there is none now.

        Raises:
            OSError: as :meth:`readinto`.
        """
        try:
            return os.readv(self._fd, buffers)
        except BlockingIOError:
            return 0

    def writev(self, buffers: Sequence[memoryview | bytes]) -> bool:
        """Write one frame, its header first; ``False`` if the kernel has no room now.

        Raises:
            OSError: EINVAL for a header that makes no sense, EIO while the interface is down, EBADFD if it is gone.
        """
        try:
            os.writev(self._fd, buffers)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close; a loop that watches the file descriptor must have been told before."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _parsed(address: str, name: str) -> IPv4Interface | IPv6Interface:
    try:
        return ip_interface(address)
    except ValueError:
        raise ConfigError(f"TAP {name}: address {address!r}: expected for example 10.0.0.1/24 or fd00::1/64") from None


def _problem(error: OSError) -> type[ConfigError]:
    return UnavailableError if error.errno in (errno.EPERM, errno.EACCES) else ConfigError


def _why(error: OSError) -> str:
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return f"not permitted: {NOT_PERMITTED}"
        case errno.EBUSY:
            return "in use (by another process, or another port of this one)"
        case errno.EINVAL:
            return "an interface of this name is there and is not a plain TAP device"
        case _:
            return str(error.strerror)


def _ifreq(name: str, value: bytes = b"") -> bytes:
    return (name.encode().ljust(16, b"\0") + value).ljust(_IFREQ_BYTES, b"\0")


def _ioctl(control: socket.socket, number: int, request: bytes) -> bytes:
    return fcntl.ioctl(control.fileno(), number, request)


def _get_int(control: socket.socket, number: int, name: str) -> int:
    value: int = struct.unpack_from("=i", _ioctl(control, number, _ifreq(name)), 16)[0]
    return value


def _exists(name: str) -> bool:
    """Whether the interface is in this thread's namespace; /sys may show another one's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            _ioctl(control, _SIOCGIFINDEX, _ifreq(name))
        except OSError:
            return False
        return True


def _set_up(
    control: socket.socket, options: TapOptions, addresses: list[IPv4Interface | IPv6Interface], *, may_stay: bool
) -> list[LeftAsIs]:
    """Set what differs from what is there; with ``may_stay`` return what we may not set, instead of failing."""
    name, mac, mtu = options.name, options.mac, options.mtu
    steps: list[tuple[str, str, Callable[[], None]]] = []
    if mac is not None and _ioctl(control, _SIOCGIFHWADDR, _ifreq(name))[18:24] != mac:
        hardware = _ifreq(name, struct.pack("=H", _ARPHRD_ETHER) + mac)
        steps.append(("hardware address", mac.hex(":"), lambda: _set(control, _SIOCSIFHWADDR, hardware)))
    if mtu is not None and _get_int(control, _SIOCGIFMTU, name) != mtu:
        size = _ifreq(name, struct.pack("=i", mtu))
        steps.append(("MTU", str(mtu), lambda: _set(control, _SIOCSIFMTU, size)))
    steps += [
        ("address", str(each), partial(_add_address, control, name, each))
        for each in addresses
        if not _has_address(control, name, each)
    ]
    (flags,) = struct.unpack_from("=H", _ioctl(control, _SIOCGIFFLAGS, _ifreq(name)), 16)
    if options.up and not flags & _IFF_UP:
        up = _ifreq(name, struct.pack("=H", flags | _IFF_UP))
        steps.append(("state", "up", lambda: _set(control, _SIOCSIFFLAGS, up)))
    left: list[LeftAsIs] = []
    for what, wanted, change in steps:
        try:
            change()
        except OSError as error:
            forbidden = error.errno in (errno.EPERM, errno.EACCES)
            if forbidden and may_stay:
                left.append(LeftAsIs(what, wanted))
                continue
            why = f"not permitted: {NOT_PERMITTED}" if forbidden else error.strerror
            raise _problem(error)(f"TAP {name}: {what} {wanted}: {why}") from None
    return left


def _set(control: socket.socket, number: int, request: bytes) -> None:
    _ioctl(control, number, request)


def _has_address(control: socket.socket, name: str, address: IPv4Interface | IPv6Interface) -> bool:
    """Whether the interface has it already: an IPv4 address as its first one."""
    if isinstance(address, IPv6Interface):
        wanted = (address.ip.packed.hex(), f"{address.network.prefixlen:02x}", name)
        try:
            lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
        except OSError:
            return False  # a kernel without IPv6
        return any((words := line.split())[0] == wanted[0] and (words[2], words[5]) == wanted[1:] for line in lines)
    try:
        found = [_ioctl(control, number, _ifreq(name))[20:24] for number in (_SIOCGIFADDR, _SIOCGIFNETMASK)]
    except OSError:
        return False  # it has none
    return found == [address.ip.packed, address.netmask.packed]


def _add_address(control: socket.socket, name: str, address: IPv4Interface | IPv6Interface) -> None:
    if isinstance(address, IPv4Interface):
        for number, part in ((_SIOCSIFADDR, address.ip), (_SIOCSIFNETMASK, address.netmask)):
            _ioctl(control, number, _ifreq(name, struct.pack("=HH", socket.AF_INET, 0) + part.packed))
        return
    index = _get_int(control, _SIOCGIFINDEX, name)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control6:
        request = struct.pack("=16sIi", address.ip.packed, address.network.prefixlen, index)
        try:
            _ioctl(control6, _SIOCSIFADDR, request)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
