"""The arena: the one piece of memory that a partition shares with the vbus host, and who has which part of it.

Everything on the wire that names memory (``datap``, ``ptr``, ``ring``, ``data``) is an *address*: ``base`` is the first
byte of the arena.  The other side chose it, so every access is checked at the moment of use, with integers that do not
wrap; the answer to anything outside is EFAULT.  Both sides have an :class:`Arena`; only the owner, north, has an
:class:`ArenaAllocator`.

Spec: vbus 2 (memory context), 3.7, A8.
"""

from __future__ import annotations

from pvnet.core.errors import LocalError
from pvnet.papr.errno import EFAULT, ENOMEM
from pvnet.vbus.errors import VbusError

DEFAULT_BASE = 0x10000
"""Address of an arena's first byte unless its owner says otherwise; 0 is never a valid address."""


class Arena:
    """Memory reachable by address.

    :param view: the bytes, writable, format ``"B"``.
    :param base: address of ``view[0]``.
    :raises LocalError: the view is read-only or not of bytes.
    """

    __slots__ = ("base", "view")

    def __init__(self, view: memoryview, base: int = DEFAULT_BASE) -> None:
        if view.readonly or view.format != "B" or view.ndim != 1:
            raise LocalError("an arena needs a writable memoryview of bytes")
        self.view = view
        self.base = base

    @property
    def size(self) -> int:
        """Bytes of the arena."""
        return len(self.view)

    def offset(self, address: int, length: int) -> int:
        """Offset in the view of ``length`` bytes at ``address``.

        :raises VbusError: EFAULT, not all of them are inside.
        """
        start = address - self.base
        if start < 0 or length < 0 or start + length > len(self.view):
            raise VbusError(EFAULT, f"{length} bytes at {address:#x} are not in the arena")
        return start

    def slice(self, address: int, length: int) -> memoryview:
        """The bytes themselves (not a copy); whoever checks them copies first.

        :raises VbusError: EFAULT, not all of them are inside.
        """
        start = self.offset(address, length)
        return self.view[start : start + length]

    def read(self, address: int, length: int) -> bytes:
        """Copy ``length`` bytes out, once.

        :raises VbusError: EFAULT.
        """
        return bytes(self.slice(address, length))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` in.

        :raises VbusError: EFAULT.
        """
        start = self.offset(address, len(data))
        self.view[start : start + len(data)] = data

    def close(self) -> None:
        """Let go of the memory: from now on every address is outside, and no view is kept from here."""
        self.view = memoryview(bytearray())


class ArenaAllocator:
    """First fit over a range of addresses; freed neighbours join.  The bookkeeping is private to the owner.

    :param base: first address.
    :param size: bytes.
    """

    def __init__(self, base: int, size: int) -> None:
        self._free: list[tuple[int, int]] = [(base, base + size)] if size > 0 else []
        self._used: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Bytes given out."""
        return sum(end - start for start, end in self._used.items())

    @property
    def available(self) -> int:
        """Bytes that are free, not necessarily in one piece."""
        return sum(end - start for start, end in self._free)

    def alloc(self, size: int, align: int = 64) -> int:
        """Address of ``size`` bytes (their content is whatever was there), a multiple of ``align``.

        :raises VbusError: ENOMEM, no piece is large enough.
        :raises LocalError: ``size`` or ``align`` is not positive.
        """
        if size <= 0 or align <= 0:
            raise LocalError(f"cannot allocate {size} bytes aligned to {align}")
        for index, (start, end) in enumerate(self._free):
            address = -(-start // align) * align
            if address + size > end:
                continue
            rest = [piece for piece in ((start, address), (address + size, end)) if piece[0] < piece[1]]
            self._free[index : index + 1] = rest
            self._used[address] = address + size
            return address
        raise VbusError(ENOMEM, f"the arena has no {size} bytes left")

    def free(self, address: int) -> None:
        """Give back what :meth:`alloc` returned.

        :raises LocalError: ``address`` is not given out.
        """
        end = self._used.pop(address, None)
        if end is None:
            raise LocalError(f"address {address:#x} is not allocated")
        pieces: list[tuple[int, int]] = []
        for piece in sorted([*self._free, (address, end)]):
            if pieces and pieces[-1][1] == piece[0]:
                pieces[-1] = (pieces[-1][0], piece[1])
            else:
                pieces.append(piece)
        self._free = pieces
