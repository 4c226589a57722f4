"""A Linux guest in QEMU finds the display and paints in it: the same memory on both sides, no message per pixel."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from interop.cards import served
from interop.qemu_guest import Parts, booted

pytestmark = pytest.mark.slow
VENDOR, DEVICE, CLASS = 0x1B36, 0x000F, 0x038000
XR24 = 0x34325258
WIDTH, HEIGHT = 640, 480
SIZE = 2 << 20
"""Of its memory: the next power of two above the pixels."""
MEMORY, PREFETCHABLE = 0x200, 0x2000
"""Flags of a PCI region."""
ROW, COUNT = 4 * WIDTH * 100, 16
"""What is painted: that many pixels of the row at that offset, each another colour."""


def png_rows(picture: bytes) -> list[bytes]:
    """The rows of an unfiltered RGB picture."""
    length = struct.unpack_from(">I", picture, 33)[0]
    assert picture[37:41] == b"IDAT"
    pixels = zlib.decompress(picture[41 : 41 + length])
    pitch = 1 + 3 * WIDTH
    return [pixels[at + 1 : at + pitch] for at in range(0, len(pixels), pitch)]


async def test_the_guest_paints_and_the_host_sees_it(parts: Parts, tmp_path: Path) -> None:
    async with (
        served(tmp_path, "framebuffer") as (lab, [screen]),
        booted(parts, tmp_path, [screen.socket]) as guest,
    ):
        (function,) = [f for f in await guest.pci() if (f.vendor, f.device) == (VENDOR, DEVICE)]
        assert function.class_code == CLASS
        first, last, flags = function.regions[0]
        assert last - first + 1 == SIZE
        assert flags & MEMORY
        assert flags & PREFETCHABLE
        assert not any(any(region) for region in function.regions[1:]), "that is its only memory"

        # Its configuration space says what is shown.
        config = f"/sys/bus/pci/devices/{function.address}/config"
        shown = (await guest.run(f"od -A n -t x4 -j 64 -N 16 {config}")).split()
        assert [int(word, 16) for word in shown[1:]] == [XR24, WIDTH, HEIGHT]

        # A line of pixels, each another colour, and the last one of the picture.
        await guest.run(f"echo 1 >/sys/bus/pci/devices/{function.address}/enable")
        messages = (await lab.socket(screen))["messages"]
        row = first + ROW
        await guest.run(f"for i in $(seq 0 {COUNT - 1}); do devmem $(({row} + 4 * i)) 32 $((i * 0x0A0B0C)); done")
        await guest.run(f"devmem {first + 4 * (WIDTH * HEIGHT - 1)} 32 0xABCDEF")
        assert (await lab.socket(screen))["messages"] == messages, "it writes into the memory itself"
        painted = await lab.mdevs.peek(screen.uuid, 0, ROW, 4 * COUNT)
        assert painted == struct.pack(f"<{COUNT}I", *(i * 0x0A0B0C for i in range(COUNT)))

        await lab.pvnet("mdev", "screenshot", screen.uuid, "-o", str(tmp_path / "screen.png"))
        rows = png_rows((tmp_path / "screen.png").read_bytes())
        assert len(rows) == HEIGHT
        assert rows[100][: 3 * COUNT] == b"".join((i * 0x0A0B0C).to_bytes(3, "big") for i in range(COUNT))
        assert rows[-1][-3:] == bytes.fromhex("ABCDEF")
        assert int(await guest.run(f"devmem {row + 4 * (COUNT - 1)} 32"), 16) == (COUNT - 1) * 0x0A0B0C
        assert await guest.warnings() == []
        await guest.power_off()
        assert guest.complaints() == []
