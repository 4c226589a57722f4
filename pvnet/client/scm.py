"""An SCM device of a partition, used from another process: ``/dev/nmemN`` (its driver's commands) and ``/dev/pmemN``.

Commands are those of Linux' ``papr_scm``: the label area, health as ndctl asks for it, statistics, flush.  Blocks are
read and written by position, in pieces of at most 64 KiB; a write is durable once a later :meth:`ScmDevice.flush`
has returned.
"""

from __future__ import annotations

import errno
import struct
from typing import Final, Self

from pvnet.client.device import CharDevice
from pvnet.core.errors import DeviceError
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.runtime.endpoint import Endpoint
from pvnet.scm.guest_interface import MAX_TRANSFER, ScmCommand
from pvnet.scm.labels import LabelArea, LabelScan, decode_area
from pvnet.scm.pdsm import HealthReport, Pdsm, decode_health, decode_package, pdsm_request

PIECE_BYTES: Final = 64 * 1024
LABEL_PIECE_BYTES: Final = 4096
_WORDS: Final = struct.Struct("<III")
_U32: Final = 1 << 32
_U64: Final = 1 << 64


class ScmDevice:
    """Device ``number`` of ``partition``; ``async with`` opens both files.

    Raises (all methods): DeviceError with the driver's errno, UnreachableError when the partition is gone.
    """

    def __init__(self, endpoint: Endpoint, partition: str, number: int = 0, *, timeout: float = 30.0) -> None:
        self.partition = partition
        self.number = number
        self.commands = CharDevice(endpoint, partition, f"/dev/nmem{number}", timeout=timeout)
        self.blocks = CharDevice(endpoint, partition, f"/dev/pmem{number}", timeout=timeout)

    async def __aenter__(self) -> Self:
        await self.commands.open()
        try:
            await self.blocks.open()
        except BaseException:
            await self.commands.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.blocks.close()
        await self.commands.close()

    async def _command(self, command: ScmCommand, data: bytes = b"") -> bytes:
        io = DeviceIo(operation=DeviceIo.IOCTL, command=int(command), data=data)
        return (await self.commands.transfer(command.name, io)).data

    @staticmethod
    def _check(doing: str, offset: int, length: int, limit: int) -> None:
        """Refuse what does not even fit into a request as the driver refuses what lies outside."""
        if not 0 <= offset < limit or not 0 <= length <= limit - offset:
            raise DeviceError(errno.EINVAL, f"{doing}: {length} bytes at {offset:#x}")

    # --- label area --------------------------------------------------------------------------------------------------

    async def label_bytes(self) -> int:
        """Size of the label (metadata) area."""
        return int(_WORDS.unpack(await self._command(ScmCommand.GET_CONFIG_SIZE))[1])

    async def read_labels(self, offset: int, length: int) -> bytes:
        """Read bytes of the label area; EINVAL when they do not all lie inside."""
        self._check("GET_CONFIG_DATA", offset, length, _U32)
        found = bytearray()
        while len(found) < length:
            piece = min(LABEL_PIECE_BYTES, length - len(found))
            request = struct.pack("<II", offset + len(found), piece)
            found += (await self._command(ScmCommand.GET_CONFIG_DATA, request))[_WORDS.size :]
        return bytes(found)

    async def write_labels(self, offset: int, data: bytes) -> None:
        """Store bytes into the label area; EINVAL when they do not all lie inside."""
        self._check("SET_CONFIG_DATA", offset, len(data), _U32)
        for at in range(0, len(data), LABEL_PIECE_BYTES):
            piece = data[at : at + LABEL_PIECE_BYTES]
            await self._command(ScmCommand.SET_CONFIG_DATA, struct.pack("<II", offset + at, len(piece)) + piece)

    async def labels(self) -> LabelArea:
        """Read, decode and verify the label area: its index blocks and the labels in use, as the kernel reads them.

        Every 8 bytes are an hcall, so what is in nobody's use is not read (it decodes as zeros).
        """
        scan = LabelScan(await self.label_bytes(), MAX_TRANSFER)
        while (wanted := scan.wanted()) is not None:
            scan.feed(await self.read_labels(*wanted))
        return decode_area(bytes(scan.area))

    # --- blocks ------------------------------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> bytes:
        """Read bytes of the device; fewer at its end."""
        self._check("read", offset, 0, _U64)
        found = bytearray()
        while len(found) < length:
            piece = min(PIECE_BYTES, length - len(found))
            io = DeviceIo(operation=DeviceIo.READ, offset=offset + len(found), count=piece)
            data = (await self.blocks.transfer("read", io)).data
            found += data
            if len(data) < piece:
                break
        return bytes(found)

    async def write(self, offset: int, data: bytes) -> None:
        """Store bytes; ENOSPC when they reach beyond the device's end."""
        self._check("write", offset, 0, _U64)
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            io = DeviceIo(operation=DeviceIo.WRITE, offset=offset + at, data=piece)
            if (await self.blocks.transfer("write", io)).result != len(piece):
                raise DeviceError(errno.ENOSPC, f"write at {offset + at:#x}")

    async def flush(self) -> None:
        """Make every write that was answered durable."""
        await self._command(ScmCommand.FLUSH)

    # --- health ------------------------------------------------------------------------------------------------------

    async def health(self) -> HealthReport:
        """Ask for the health as ndctl does (PDSM)."""
        raw = await self._command(ScmCommand.CALL, pdsm_request(Pdsm.HEALTH).encode("little"))
        return decode_health(decode_package(raw, "little").payload, "little")

    async def flags(self) -> str:
        """Words of ``papr/flags``."""
        return (await self._command(ScmCommand.FLAGS)).decode().strip()

    async def statistics(self) -> dict[str, int]:
        """Performance statistics by name; ENOENT, EPERM, EOPNOTSUPP, EIO as the driver says."""
        text = (await self._command(ScmCommand.PERF_STATS)).decode()
        pairs = (line.split("=") for line in text.splitlines() if "=" in line)
        return {name.strip(): int(value, 0) for name, value in pairs}
