"""Network namespaces that a test makes and removes again, and programs run inside them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

_numbers = count(1)


@contextmanager
def namespaces(how_many: int = 1) -> Iterator[list[str]]:
    """Namespaces with their loopback up; names that no other run of the tests has."""
    names = [f"pvnet-{os.getpid()}-{next(_numbers)}" for _ in range(how_many)]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
            # No waiting for IPv6 addresses to be known as unique, and no router solicitations in between.
            run_in(name, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; "
                   "echo 0 > /proc/sys/net/ipv6/conf/default/router_solicitations")  # fmt: skip
        yield names
    finally:
        for name in made:
            ip("netns", "delete", name)


def ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def run_in(namespace: str, *command: str) -> str:
    return _run("ip", "netns", "exec", namespace, *command)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


async def inside(namespace: str, *command: str) -> str:
    """Run a program in a namespace while this loop carries its packets; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", namespace, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        out, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, f"{command}: {out.decode()}"
    return out.decode()


_SERVER = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as server:
    server.bind((sys.argv[1], 5001))
    server.listen()
    print("ready", flush=True)
    connection, _ = server.accept()
    with connection:
        digest, size = hashlib.sha256(), 0
        while data := connection.recv(1 << 20):
            digest.update(data)
            size += len(data)
        connection.sendall(f"{size} {digest.hexdigest()}".encode())
"""
_CLIENT = """
import hashlib, random, socket, sys
data = random.Random(1).randbytes(1 << 20)
digest = hashlib.sha256()
with socket.create_connection((sys.argv[1], 5001), timeout=30) as connection:
    for _ in range(int(sys.argv[2])):
        connection.sendall(data)
        digest.update(data)
    connection.shutdown(socket.SHUT_WR)
    got = connection.makefile().read()
expected = f"{int(sys.argv[2]) << 20} {digest.hexdigest()}"
assert got == expected, (got, expected)
print("same")
"""


async def transfer(sender: str, receiver: str, address: str, mebibytes: int) -> None:
    """Send bytes by TCP from one namespace to ``address`` in another and compare the checksums on both sides."""
    server = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", receiver, sys.executable, "-c", _SERVER, address, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        assert await server.stdout.readline() == b"ready\n"
        assert "same" in await inside(sender, sys.executable, "-c", _CLIENT, address, str(mebibytes))
        assert await server.wait() == 0
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
