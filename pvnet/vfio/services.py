"""What a process offers to vendor drivers: memory that users can map, serial lines, block stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pvnet.core.machine import Note
from pvnet.mdev.device import BlockStore, DriverServices, LineReceiver, RegionMemory, SerialLine
from pvnet.mdev.errors import MdevError
from pvnet.papr.errno import ENODEV
from pvnet.vfio.descriptors import SharedMemory
from pvnet.vfio.lines import PortHub, open_line
from pvnet.vfio.stores import FileStore, ScmStore


class Services(DriverServices):
    """The services of one process; needs a running loop where a line is opened.

    :param note: hears what a log should have.
    :param directory: where relative paths of stores begin; default: the current directory.
    :param scm_blocks: the file with the blocks of ``PARTITION:NUMBER``, None: there is no such device.
    """

    def __init__(
        self,
        note: Callable[[Note], None],
        *,
        directory: str | Path = ".",
        scm_blocks: Callable[[str], Path | None] = lambda _: None,
    ) -> None:
        self._note = note
        self._directory = Path(directory)
        self._scm_blocks = scm_blocks
        self._ports = PortHub()

    def memory(self, name: str, size: int) -> RegionMemory:
        """Make memory in a sealed memfd."""
        return SharedMemory(name, size)

    def line(self, uri: str, receiver: LineReceiver) -> SerialLine:
        """Connect a serial port; see :mod:`pvnet.vfio.lines`."""
        return open_line(uri, receiver, self._ports)

    def store(self, path: str, size: int | None, *, readonly: bool) -> BlockStore:
        """Open a file of blocks."""
        return FileStore(self._directory / path, size, readonly=readonly)

    def scm(self, device: str) -> BlockStore:
        """Open the blocks of an SCM device."""
        path = self._scm_blocks(device)
        if path is None:
            raise MdevError(ENODEV, f"SCM device {device[:80]!r}: expected PARTITION:NUMBER of one in this lab")
        return ScmStore(path)

    def note(self, note: Note) -> None:
        """Hand it on."""
        self._note(note)
