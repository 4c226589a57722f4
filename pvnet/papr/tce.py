"""The hcalls that fill a partition's DMA windows: H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT.

Checks in LoPAR's order:

==================  ==================================================================================================
H_GET_TCE           LIOBN of the caller, IOBA in its window: H_PARAMETER
H_PUT_TCE           the same; page of the TCE in the caller's memory unless the TCE has no access: H_PARAMETER
H_STUFF_TCE         LIOBN, IOBA: H_PARAMETER; count above 512: H_P4; IOBA + count: H_PARAMETER; page: H_PARAMETER
H_PUT_TCE_INDIRECT  LIOBN negative (several tables at once): H_FUNCTION; count above 512, LIOBN, IOBA + count, list not
                    on a 4 KiB boundary or not in the caller's memory, page of any TCE: H_PARAMETER
==================  ==================================================================================================

Only the low 32 bits of a LIOBN count.  The IOBA is rounded down to its page (LoPAR is silent, QEMU does it).  The list
is read once, checked whole and only then stored, so that the caller cannot change it in between.

Doubt decided: only pane 1 belongs to the caller; entries of pane 2 are its partner's, so its LIOBN is H_PARAMETER.
Spec: LoPAR ch. 14, "LPAR DMA window" hcalls.
"""

from __future__ import annotations

import struct
from typing import Final

from pvnet.memory.window import PAGE_BYTES, PAGE_SHIFT, DmaWindow, Refusal, tce_access, tce_address
from pvnet.papr.dispatch import Answer
from pvnet.papr.hcall import HcallRc
from pvnet.papr.platform_io import PlatformProfile

LIST_LIMIT: Final = 512
"""TCEs in one page of 4 KiB."""
TCE_BYTES: Final = 8
_U32: Final = 0xFFFF_FFFF
_OK: Final = Answer(HcallRc.H_SUCCESS)
_BAD: Final = Answer(HcallRc.H_PARAMETER)


def low32(register: int) -> int:
    """What counts of a register that holds a LIOBN, a unit address or a DRC index."""
    return register & _U32


def encode_tce(address: int, access: int) -> int:
    """The TCE of the page at real ``address`` (its low 12 bits are ignored) with ``access`` 0 to 3."""
    return tce_address(address) | tce_access(access)


def encode_tce_list(tces: tuple[int, ...]) -> bytes:
    """The page content that H_PUT_TCE_INDIRECT reads: big-endian, 8 bytes each."""
    return struct.pack(f">{len(tces)}Q", *tces)


def decode_tce_list(data: bytes) -> tuple[int, ...]:
    """The entries of a list; ``data`` is a multiple of 8 bytes."""
    return struct.unpack(f">{len(data) // TCE_BYTES}Q", data)


def get_tce(window: DmaWindow | None, ioba: int) -> Answer:
    """H_GET_TCE: r4 is the entry."""
    tce = Refusal.RANGE if window is None else window.get(ioba)
    return _BAD if isinstance(tce, Refusal) else Answer(HcallRc.H_SUCCESS, (tce,))


def put_tce(window: DmaWindow | None, ioba: int, tce: int, memory_bytes: int, profile: PlatformProfile) -> Answer:
    """H_PUT_TCE."""
    if window is None or not window.holds(ioba) or not _is_good(tce, memory_bytes, profile):
        return _BAD
    window.put(ioba, tce)
    return _OK


def stuff_tce(
    window: DmaWindow | None, ioba: int, tce: int, count: int, memory_bytes: int, profile: PlatformProfile
) -> Answer:
    """H_STUFF_TCE: ``count`` consecutive entries become ``tce``."""
    if window is None:
        return _BAD
    if profile.tce_stuff_limit is None:
        if count > window.pages:
            return _BAD
    elif not window.holds(ioba):
        return _BAD
    elif count > profile.tce_stuff_limit:
        return Answer(HcallRc.H_P4)
    if not window.holds(ioba, count):
        if profile.tce_list_in_part and window.holds(ioba):
            window.stuff(ioba, tce, window.pages - (ioba >> PAGE_SHIFT))
        return _BAD
    if not _is_good(tce, memory_bytes, profile):
        return _BAD
    window.stuff(ioba, tce, count)
    return _OK


def check_list(
    window: DmaWindow | None, ioba: int, address: int, count: int, memory_bytes: int, profile: PlatformProfile
) -> Answer | None:
    """H_PUT_TCE_INDIRECT before the list is read: the refusal, or ``None`` to go on."""
    if count > LIST_LIMIT or window is None:
        return _BAD
    if not profile.tce_list_in_part and not window.holds(ioba, count):
        return _BAD
    if address & (PAGE_BYTES - 1) or address + count * TCE_BYTES > memory_bytes:
        return _BAD
    return None


def put_tce_list(
    window: DmaWindow, ioba: int, tces: tuple[int, ...], memory_bytes: int, profile: PlatformProfile
) -> Answer:
    """H_PUT_TCE_INDIRECT once the list is here."""
    if not all(_is_good(tce, memory_bytes, profile) for tce in tces):
        return _BAD
    if window.put_list(ioba, tces) is None:
        return _OK
    if profile.tce_list_in_part and window.holds(ioba):
        window.put_list(ioba, tces[: window.pages - (ioba >> PAGE_SHIFT)])
    return _BAD


def _is_good(tce: int, memory_bytes: int, profile: PlatformProfile) -> bool:
    """Whether the page may be stored: it has no access, or lies in the caller's memory."""
    return not profile.checks_tce_page or not tce_access(tce) or tce_address(tce) + PAGE_BYTES <= memory_bytes
