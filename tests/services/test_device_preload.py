"""C programs that open ``/dev/ibmvmc``, through the preloaded library, against a lab."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_socket_rig import device_at, lab_with_device, server_of

ROOT = Path(__file__).resolve().parents[2]
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
pytestmark = pytest.mark.needs("gcc")


def compiled(output: Path, source: str, *options: str) -> Path:
    subprocess.run(["gcc", *STRICT, *options, "-o", output, ROOT / source, "-ldl", "-pthread"], check=True)
    return output


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library and the programs."""
    folder = tmp_path_factory.mktemp("c")
    compiled(folder / "shim.so", "deploy/preload/ibmvmc.c", "-fPIC", "-shared", "-U_FORTIFY_SOURCE")
    compiled(folder / "session", "tests/c/ibmvmc_session.c")
    compiled(folder / "fortified", "tests/c/ibmvmc_session.c", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2")
    compiled(folder / "large", "tests/c/ibmvmc_session.c", "-D_FILE_OFFSET_BITS=64")
    return folder


async def started(built: Path, uri: str, *words: object) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PVNET_IBMVMC": uri, "LD_PRELOAD": str(built / "shim.so")}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*map(str, words), env=environment, stdout=pipe, stderr=pipe)


async def outcome(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    try:
        out, err = await asyncio.wait_for(process.communicate(), 30)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        return -1, out.decode(), err.decode() + "hung"
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    "scenario", ["session", "negative", "numbers", "fork", "dup", "threads", "poll", "signals", "pieces"]
)
async def test_programs_in_c(built: Path, tmp_path: Path, scenario: str) -> None:
    async with device_at(tmp_path) as (_, uri):
        assert await outcome(await started(built, uri, built / "session", scenario)) == (0, "", "")


@pytest.mark.parametrize("program", ["fortified", "large"])
async def test_other_ways_to_compile_them(built: Path, tmp_path: Path, program: str) -> None:
    async with device_at(tmp_path) as (_, uri):
        for scenario in ("session", "poll"):
            assert await outcome(await started(built, uri, built / program, scenario)) == (0, "", "")


async def test_a_redirection_of_a_shell_is_inherited(built: Path, tmp_path: Path) -> None:
    async with device_at(tmp_path) as (_, uri):
        shell = await started(built, uri, "sh", "-c", f"exec {built / 'session'} inherited 3<>/dev/ibmvmc")
        assert await outcome(shell) == (0, "", "")


async def test_a_reader_wakes_when_the_hypervisor_or_the_partition_ends(built: Path, tmp_path: Path) -> None:
    async with lab_with_device() as lab:
        uri = await server_of(lab).add(f"unix:{tmp_path / 's'}")
        for node in ("hypervisor", "mp"):
            process = await started(built, uri, built / "session", "ends")
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"waiting\n"
            await (lab.crash(node) if node == "hypervisor" else lab.stop(node))
            assert await outcome(process) == (0, "", "")
            if node == "hypervisor":
                await lab.start(node)


async def test_a_killed_program_leaves_nothing(built: Path, tmp_path: Path) -> None:
    async with device_at(tmp_path) as (_, uri):
        for _ in range(5):
            process = await started(built, uri, built / "session", "ends")
            assert process.stdout is not None
            await asyncio.wait_for(process.stdout.readline(), 20)
            process.kill()
            await process.communicate()


PYTHON = """
import fcntl, os, select, struct, time
fd = os.open("/dev/ibmvmc", os.O_RDWR | os.O_NONBLOCK)
have_vmc, state, drc = struct.unpack("=iii", fcntl.ioctl(fd, 0x800CCC01, bytes(12)))
assert have_vmc == 1
fcntl.ioctl(fd, 0x4008CC00, b"python".ljust(32, b"\\0"))
while True:
    try:
        assert os.write(fd, b"hello") == 5
        break
    except OSError:
        time.sleep(0.01)
assert select.select([fd], [], [], 20)[0] == [fd]
assert os.read(fd, 4096) == b"hello"
with open("/dev/ibmvmc", "r+b", buffering=0) as other:
    try:
        other.write(b"x")
    except OSError as error:
        print(error.errno)
"""


async def test_a_program_in_python(built: Path, tmp_path: Path) -> None:
    async with device_at(tmp_path) as (_, uri):
        assert await outcome(await started(built, uri, sys.executable, "-c", PYTHON)) == (0, "5\n", "")


async def test_no_lab_behind_it(built: Path, tmp_path: Path) -> None:
    for uri, said in [(f"unix:{tmp_path / 'none'}", ""), ("tcp:127.0.0.1:1", "expected unix:PATH")]:
        script = "import os; os.open('/dev/null', 0); os.open('/dev/ibmvmc', 2)"
        code, _, error = await outcome(await started(built, uri, sys.executable, "-c", script))
        assert code == 1
        assert "No such device or address" in error
        assert said in error
