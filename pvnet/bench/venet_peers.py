"""The peers of the venet scenario: a veth pair, which the kernel alone forwards, and two TAPs with a copy loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from pvnet.bench.netns import Route, command, namespaces
from pvnet.bench.peer_process import talking_process

MTU: Final = 1500
_START_S: Final = 20.0
_DEVICE: Final = "bench0"


async def _give_address(namespace: str, device: str, address: str) -> None:
    await command("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", device)
    await command("ip", "-n", namespace, "link", "set", device, "mtu", str(MTU), "up")


@asynccontextmanager
async def veth() -> AsyncIterator[Route]:
    """A veth pair between two namespaces.

    :raises UnreachableError: the system refuses.
    """
    async with namespaces("va", "vb") as (near, far):
        pair = ("type", "veth", "peer", "name", _DEVICE, "netns", far)
        await command("ip", "-n", near, "link", "add", _DEVICE, *pair)
        await _give_address(near, _DEVICE, "10.77.1.1")
        await _give_address(far, _DEVICE, "10.77.1.2")
        yield Route("veth", near, far, "10.77.1.2")


@asynccontextmanager
async def tap_loop() -> AsyncIterator[Route]:
    """Two TAPs with the copy loop between them.

    :raises UnreachableError: the system refuses, or the loop does not start.
    """
    async with AsyncExitStack() as stack:
        near, far = await stack.enter_async_context(namespaces("ta", "tb"))
        loop = await stack.enter_async_context(talking_process("pvnet.bench.tap_loop"))
        loop.tell(json.dumps([[near, _DEVICE], [far, _DEVICE]]))
        await loop.hear(_START_S)
        await _give_address(near, _DEVICE, "10.77.2.1")
        await _give_address(far, _DEVICE, "10.77.2.2")
        yield Route("tap-loop", near, far, "10.77.2.2", (loop.pid,))
