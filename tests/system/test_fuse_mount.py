"""``pvnet mount`` with real programs, in C and in Python, and everything about it that may be killed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from system_support import PATIENCE_S, TESTS, RunningLab, eventually, running, topology

pytestmark = [pytest.mark.needs("fusermount3", "fuse"), pytest.mark.timeout(240)]
PVNET = str(Path(sys.executable).parent / "pvnet")


class Program:
    """A process of ours and what it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str | Path, env: dict[str, str] | None = None) -> Program:
        made = await asyncio.create_subprocess_exec(
            *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env
        )
        return cls(made)

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self.process.stdout.readline()).decode()

    async def said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.line())
        return found

    async def end(self) -> tuple[int, str, str]:
        """Wait for its end; exit code, the rest of its output, its errors."""
        async with asyncio.timeout(PATIENCE_S):
            output, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, output.decode(), errors.decode()


class Mounted:
    """A lab with a directory where its device is mounted."""

    def __init__(self, lab: RunningLab, runtime: Path, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.file = directory / "ibmvmc"
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        self.environment.pop("PVNET_LAB", None)
        self.mount: Program

    async def start(self) -> None:
        self.mount = await Program.start(PVNET, "mount", self.directory, "--json", env=self.environment)
        said = await self.mount.line()
        assert said, await self.mount.end()
        expected = {"file": str(self.file), "lab": self.lab.lab.name, "partition": "mp"}
        assert json.loads(said) == expected

    async def program(self, *arguments: str) -> Program:
        """Start a program that has a session."""
        program = await Program.start(sys.executable, TESTS / "fuse_program.py", self.file, *arguments)
        said = await program.line()
        assert said, await program.end()
        return program

    async def _calls(self) -> int:
        return int((await self.lab.status("mp"))["device_calls_under_way"])

    async def blocked(self, count: int = 1) -> Program:
        """Start a program so many threads of which sleep in read()."""
        before = await self._calls()
        program = await self.program("read", str(count))

        async def asleep() -> bool:
            return await self._calls() >= before + count

        await eventually(asleep)
        return program

    def is_mounted(self) -> bool:
        return f" {self.directory} fuse.ibmvmc " in Path("/proc/mounts").read_text()

    async def unmounted(self) -> None:
        async def gone() -> bool:
            return not self.is_mounted()

        await eventually(gone)
        assert list(self.directory.iterdir()) == []


@asynccontextmanager
async def mounted(tmp_path: Path, name: str) -> AsyncIterator[Mounted]:
    runtime, directory = tmp_path / "run", tmp_path / "device"
    runtime.mkdir(mode=0o700)
    directory.mkdir()
    async with running(topology(name), runtime / "pvnet") as lab:
        one = Mounted(lab, runtime, directory)
        await one.start()
        try:
            yield one
        finally:
            if one.mount.process.returncode is None:
                one.mount.process.terminate()
                code, _, errors = await one.mount.end()
                assert (code, errors) == (128 + signal.SIGTERM, "")
                assert not one.is_mounted()


@pytest.mark.needs("gcc")
async def test_c_program(tmp_path: Path) -> None:
    program = tmp_path / "session"
    compiler = await Program.start(
        *("gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-D_FORTIFY_SOURCE=2", "-pthread"),
        *("-o", program, TESTS / "fuse_session.c"),
    )
    assert await compiler.end() == (0, "", "")
    async with mounted(tmp_path, "fusec") as one:
        for _ in range(2):  # the second finds nothing of the first
            done = await (await Program.start(program, one.file)).end()
            steps = ["query", "refusals", "session", "threads", "100 echoes", "dup and fork", "closed"]
            assert done == (0, "".join(f"{step}\n" for step in steps), "")


async def test_python_programs_and_signals(tmp_path: Path) -> None:
    async with mounted(tmp_path, "fusepy") as one:
        rest = await one.lab.at_rest()
        both = [await one.program("echo", "60") for _ in range(2)]  # a session each
        for program in both:
            assert await program.said() == {"echoes": 60}
            assert await program.end() == (0, "", "")
        crowd = await one.blocked(40)  # more than libfuse has threads at first
        busy = await one.program("echo", "20")
        assert await busy.said() == {"echoes": 20}
        await busy.end()
        crowd.process.kill()  # nobody but we can end the reads of a process that is killed
        assert (await crowd.end())[0] == -signal.SIGKILL
        reader = await one.blocked()
        reader.process.send_signal(signal.SIGINT)
        code, _, errors = await reader.end()
        assert code == -signal.SIGINT, errors
        assert "KeyboardInterrupt" in errors
        await one.lab.settle(rest)  # every file was closed, every session ended


async def test_partition_and_hypervisor_die_under_readers(tmp_path: Path) -> None:
    async with mounted(tmp_path, "fusedie") as one:
        for victim, code, events in (
            ("mp", errno.ENODEV, [select.POLLERR]),
            ("hypervisor", errno.EBADFD, None),  # the end of a session is invisible to poll
        ):
            reader = await one.blocked()
            poller = await one.program("poll")
            pid = one.lab.kill(victim)
            assert await reader.said() == {"errnos": [code], "count": 1}
            assert await reader.end() == (0, "", "")
            if events:
                assert await poller.said() == {"events": events, "errno": code}
            else:
                poller.process.kill()
            await poller.end()
            await one.lab.restarted(victim, pid)
            again = await one.program("echo", "3")  # without mounting again
            assert await again.said() == {"echoes": 3}
            await again.end()


async def test_the_mount_dies_under_readers(tmp_path: Path) -> None:
    async with mounted(tmp_path, "fusekill") as one:
        rest = await one.lab.at_rest()
        reader = await one.blocked()
        poller = await one.program("poll")
        one.mount.process.kill()
        assert await reader.said() == {"errnos": [errno.ECONNABORTED], "count": 1}
        assert (await poller.said())["events"] == [select.POLLERR]
        await reader.end()
        await poller.end()
        await one.mount.end()
        await one.unmounted()  # fusermount3 sees to it
        await one.lab.settle(rest)  # the partition closed the files of the dead process
        await one.start()
        reader, poller = await one.blocked(), await one.program("poll")
        one.mount.process.terminate()
        code, _, errors = await one.mount.end()
        assert (code, errors) == (128 + signal.SIGTERM, "")
        assert await reader.said() == {"errnos": [errno.ENODEV], "count": 1}
        assert (await poller.said())["events"] == [select.POLLERR]
        await one.unmounted()
        await poller.end()
        await reader.end()
        await one.start()
        reader = await one.blocked()  # unmounted from outside: who has the file open keeps it
        assert (await (await Program.start("fusermount3", "-u", "-z", one.directory)).end())[0] == 0
        await one.unmounted()
        reader.process.kill()
        await reader.end()
        assert await one.mount.end() == (0, "", f"pvnet: {one.directory} has been unmounted\n")


async def test_it_ends_with_the_lab_and_says_what_is_wrong(tmp_path: Path) -> None:
    async with mounted(tmp_path, "fuseend") as one:
        reader = await one.blocked()
        full = await Program.start(PVNET, "mount", one.directory, env=one.environment)
        assert await full.end() == (
            2,
            "",
            f"pvnet: mount {one.directory}: the directory is not empty: expected an empty one\n",
        )
        absent = await Program.start(PVNET, "mount", tmp_path / "no", env=one.environment)
        assert await absent.end() == (
            2,
            "",
            f"pvnet: mount {tmp_path / 'no'}: there is no such directory: mkdir {tmp_path / 'no'}\n",
        )
        assert one.lab.lab.processes is not None
        await one.lab.lab.processes.__aexit__(None, None, None)
        code, _, errors = await one.mount.end()
        assert (code, errors) == (0, "pvnet: lab fuseend has ended\n")
        assert (await reader.said())["errnos"][0] in {errno.ENODEV, errno.EBADFD}
        await reader.end()
        await one.unmounted()
    nothing = await Program.start(PVNET, "mount", tmp_path / "device", env=one.environment)
    code, _, errors = await nothing.end()
    assert (code, errors) == (3, "pvnet: no lab is running; start one with: pvnet up\n")
