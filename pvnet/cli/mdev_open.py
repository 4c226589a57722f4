"""``pvnet mdev open``: a vfio-user client that looks at a device and leaves."""

from __future__ import annotations

from typing import Any, Final

from pvnet.core.errors import ConfigError
from pvnet.mdev.names import DeviceFlag, IrqFlag, PciRegion, RegionFlag
from pvnet.vfio.client import VfioUserClient

_COUNT_MAX: Final = 1 << 20


def _place(text: str, option: str, third: str) -> tuple[int, int, str]:
    parts = text.split(":")
    try:
        if len(parts) != 3:
            raise ValueError
        region, offset = int(parts[0], 0), int(parts[1], 0)
        if region < 0 or offset < 0 or region >> 32 or offset >> 64:
            raise ValueError
    except ValueError:
        raise ConfigError(f"{option} {text[:60]!r}: expected REGION:OFFSET:{third}") from None
    return region, offset, parts[2]


def _reads(texts: list[str]) -> list[tuple[int, int, int]]:
    found = []
    for text in texts:
        region, offset, third = _place(text, "--read", "COUNT")
        try:
            count = int(third, 0)
        except ValueError:
            count = 0
        if not 0 < count <= _COUNT_MAX:
            raise ConfigError(f"--read {text[:60]!r}: expected a count of 1 to {_COUNT_MAX}")
        found.append((region, offset, count))
    return found


def _writes(texts: list[str]) -> list[tuple[int, int, bytes]]:
    found = []
    for text in texts:
        region, offset, third = _place(text, "--write", "HEX")
        try:
            data = bytes.fromhex(third)
        except ValueError:
            data = b""
        if not data:
            raise ConfigError(f"--write {text[:60]!r}: expected pairs of hexadecimal digits")
        found.append((region, offset, data))
    return found


async def look(path: str, reads: list[str], writes: list[str], timeout: float, *, reset: bool) -> dict[str, Any]:
    """Connect, do what was asked for, and return what the device is and what was read.

    Raises:
        ConfigError: an option is wrong.  UnreachableError: nobody serves there.  MdevError: the server refuses.
    """
    wanted, stored = _reads(reads), _writes(writes)
    async with await VfioUserClient.connect(path, connect_s=timeout, timeout_s=timeout) as client:
        if reset:
            await client.reset()
        info, regions, irqs = await client.info(), await client.regions(), await client.irqs()
        for region, offset, data in stored:
            await client.write(region, offset, data)
        config = b""
        if info.flags & DeviceFlag.PCI and len(regions) > PciRegion.CONFIG and regions[PciRegion.CONFIG].size >= 64:
            config = await client.read(int(PciRegion.CONFIG), 0, 64)
        version = client.machine.version
        return {
            "version": "" if version is None else f"{version.major}.{version.minor}",
            "flags": _names(DeviceFlag, info.flags),
            "pci": _pci(config),
            "regions": [
                {"index": n, "size": r.size, "flags": _names(RegionFlag, r.flags), "sparse": list(r.sparse)}
                for n, r in enumerate(regions)
                if r.size
            ],
            "irqs": [
                {"index": n, "count": i.count, "flags": _names(IrqFlag, i.flags)} for n, i in enumerate(irqs) if i.count
            ],
            "reads": [
                {"where": f"region {r} at {o:#x}", "data": (await client.read(r, o, count)).hex()}
                for r, o, count in wanted
            ],
        }


def _pci(config: bytes) -> dict[str, str] | None:
    if not config:
        return None
    vendor, device = int.from_bytes(config[0:2], "little"), int.from_bytes(config[2:4], "little")
    return {"id": f"{vendor:04x}:{device:04x}", "class": f"{int.from_bytes(config[9:12], 'little'):06x}"}


def _names(kind: type[DeviceFlag | RegionFlag | IrqFlag], value: int) -> list[str]:
    return [flag.name.lower() for flag in kind if value & flag and flag.name]
