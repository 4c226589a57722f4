"""A Linux guest in a foreign hypervisor: an unmodified QEMU, attached to vfio-user sockets, boots an unmodified kernel.

``.ci/interop.sh`` fetches the parts.  The guest runs one shell as its only process; ``Guest.run`` has it execute a
command and returns what that wrote.  The guest's disk is an initial RAM disk of one program, busybox.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
FETCH: Final = REPOSITORY / ".ci" / "interop.sh"

BOOT_S: Final = 90.0
"""How long a kernel may take to boot: three seconds on an idle machine."""
COMMAND_S: Final = 60.0
COMMAND_LINE: Final = "console=ttyS0 panic=-1 quiet 8250.nr_uarts=8"
WARNING: Final = 4
"""Level of kernel messages; what is below it is worse."""
CONCERNS: Final = re.compile(r"pci|vfio|irq \d+:|nobody cared|BAR |serial|ttyS|Call Trace|WARNING|BUG|refused|conflict")
GREETING: Final = "<<< guest ready >>>"

INIT: Final = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /tmp
dmesg -n 1
stty -echo
echo '{GREETING}'
while read -r tag command; do
  echo "<<< $tag runs >>>"
  ( eval "$command" ) </dev/null 2>&1
  echo "<<< $tag $? >>>"
done
poweroff -f
"""


class GuestError(AssertionError):
    """The guest did not do what it was told; says what it wrote last."""


@dataclass(frozen=True)
class Parts:
    """The foreign programs, below one folder."""

    folder: Path

    @property
    def qemu(self) -> list[str]:
        """How to start QEMU: with its own dynamic loader, libraries and firmware, whatever this machine has."""
        tree = self.folder / "qemu" / "usr"
        loader = tree / "lib64" / "ld-linux-x86-64.so.2"
        program = [str(loader), "--library-path", str(tree / "lib" / "x86_64-linux-gnu")]
        firmware = ["-L", str(tree / "share" / "qemu"), "-L", str(tree / "share" / "seabios")]
        return [*program, str(tree / "bin" / "qemu-system-x86_64"), *firmware]

    @property
    def kernel(self) -> Path:
        """The guest's kernel."""
        return next((self.folder / "linux" / "boot").glob("vmlinuz-*"))

    @property
    def busybox(self) -> Path:
        """The guest's only program, statically linked."""
        return self.folder / "busybox" / "usr" / "bin" / "busybox"

    def missing(self) -> str | None:
        """Why no guest can be started from here."""
        for part in ("qemu", "linux", "busybox"):
            if not (self.folder / part / ".complete").exists():
                return f"no {part} for a vfio-user guest is fetched (make interop)"
        return None


def find_parts() -> Parts:
    """Where the parts are, or would be."""
    return Parts(REPOSITORY / os.environ.get("PVNET_INTEROP", ".interop"))


def cpio(entries: Iterable[tuple[str, int, bytes, tuple[int, int]]]) -> bytes:
    """An archive in the format that the kernel unpacks: name, mode, content and device number of each entry."""
    out = bytearray()
    for inode, (name, mode, data, device) in enumerate([*entries, ("TRAILER!!!", 0, b"", (0, 0))], start=1):
        path = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (path, data):
            out += part
            out += bytes(-len(out) % 4)
    return bytes(out)


@cache
def initial_ram_disk(busybox: Path) -> bytes:
    """The guest's root file system: busybox, /init and the console."""
    folders = [(name, stat.S_IFDIR | 0o755, b"", (0, 0)) for name in ("dev", "proc", "sys", "bin")]
    return cpio(
        [
            *folders,
            ("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)),
            ("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes(), (0, 0)),
            ("init", stat.S_IFREG | 0o755, INIT.encode(), (0, 0)),
        ]
    )


@dataclass(frozen=True)
class PciFunction:
    """What the guest's kernel says of a PCI device."""

    address: str
    vendor: int
    device: int
    class_code: int
    irq: int
    regions: tuple[tuple[int, int, int], ...]
    """First and last address, and flags, of the six base address registers."""


class Guest:
    """A running QEMU and the shell in its guest."""

    def __init__(self, process: asyncio.subprocess.Process, complaints: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._to, self._from = process.stdin, process.stdout
        self._complaints = complaints
        self._said = ""
        self._tags = itertools.count(1)

    async def _until(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Wait for something on the console; what came before it and itself is gone then."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := re.search(pattern, self._said)):
                    data = await self._from.read(65536)
                    if not data:
                        raise GuestError(f"QEMU ended: {self.complaints()}\n{self._said[-4000:]}")
                    self._said += data.decode("latin-1").replace("\r", "")
        except TimeoutError:
            raise GuestError(f"the guest did not say {pattern!r} in {timeout_s:.0f} s:\n{self._said[-4000:]}") from None
        self._said = self._said[found.end() :]
        return found

    async def booted(self) -> None:
        """Wait until the guest's shell obeys."""
        await self._until(GREETING + "\n", BOOT_S)

    async def run(self, command: str, *, timeout_s: float = COMMAND_S, check: bool = True) -> str:
        """What a shell command in the guest wrote; it fails unless the command succeeds."""
        assert "\n" not in command
        tag = f"c{next(self._tags)}"
        self._to.write(f"{tag} {command}\n".encode())
        await self._to.drain()
        found = await self._until(rf"(?s)<<< {tag} runs >>>\n(.*?)<<< {tag} (\d+) >>>\n", timeout_s)
        if check and found[2] != "0":
            raise GuestError(f"{command!r} exits with {found[2]}: {found[1]}")
        return found[1]

    async def reboot(self) -> None:
        """Restart the guest's kernel; QEMU goes on."""
        self._to.write(b"boot reboot -f\n")
        await self._to.drain()
        await self.booted()

    async def power_off(self) -> None:
        """Have the guest turn itself off, which ends QEMU."""
        self._to.write(b"off poweroff -f\n")
        await self._to.drain()
        async with asyncio.timeout(COMMAND_S):
            await self._from.read()
            assert await self.process.wait() == 0, self.complaints()

    async def kill(self) -> None:
        """End QEMU at once."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()

    def complaints(self) -> list[str]:
        """What QEMU itself has written; not that a device has no irq for errors, as few have."""
        lines = self._complaints.read_text().splitlines()
        return [line for line in lines if "Could not enable error recovery" not in line]

    async def pci(self) -> list[PciFunction]:
        """The guest's PCI devices."""
        listing = await self.run(
            "for d in /sys/bus/pci/devices/*; do "
            "echo ${d##*/} $(cat $d/vendor $d/device $d/class $d/irq $d/resource); done"
        )
        functions = []
        for line in listing.splitlines():
            address, vendor, device, class_code, irq, *rest = line.split()
            numbers = [int(word, 16) for word in rest[:18]]
            regions = tuple((first, last, flags) for first, last, flags in zip(*[iter(numbers)] * 3, strict=True))
            functions.append(
                PciFunction(address, int(vendor, 16), int(device, 16), int(class_code, 16), int(irq), regions)
            )
        return functions

    async def warnings(self) -> list[str]:
        """What the kernel has complained of since it booted, if it may have to do with a device of ours."""
        lines = (await self.run("dmesg -r")).splitlines()
        serious = [line for line in lines if (level := re.match(r"<(\d+)>", line)) and int(level[1]) & 7 <= WARNING]
        return [line for line in serious if CONCERNS.search(line)]


def _device(path: Path) -> str:
    return json.dumps({"driver": "vfio-user-pci", "socket": {"path": str(path), "type": "unix"}})


@asynccontextmanager
async def booted(
    parts: Parts, directory: Path, sockets: Sequence[Path], *, memory_mib: int = 128, shared: bool = True
) -> AsyncIterator[Guest]:
    """A guest with a PCI device for each vfio-user socket.

    Without ``shared`` QEMU passes no descriptors of the guest's memory, so a device reaches it by messages only.
    """
    ram_disk = directory / "initrd"
    ram_disk.write_bytes(initial_ram_disk(parts.busybox))
    kind = "memory-backend-memfd" if shared else "memory-backend-ram"
    share = "on" if shared else "off"
    command = [
        *parts.qemu,
        *("-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-m", f"{memory_mib}M"),
        *("-object", f"{kind},id=ram,size={memory_mib}M,share={share}", "-machine", "q35,memory-backend=ram"),
        *("-kernel", str(parts.kernel), "-initrd", str(ram_disk), "-append", COMMAND_LINE),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
    ]
    for path in sockets:
        command += ["-device", _device(path)]
    if shutil.which("setpriv"):  # so that it does not outlive a test run that is killed
        command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
    complaints = directory / "qemu.err"
    with complaints.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr
        )
    guest = Guest(process, complaints)
    try:
        await guest.booted()
        yield guest
    finally:
        await guest.kill()
