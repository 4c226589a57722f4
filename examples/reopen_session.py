"""Lose the hypervisor in the middle of a session, see the error that the driver gives, and open a new session."""

import asyncio
import os
import signal

from pvnet.client import Lab
from pvnet.core.errors import DeviceError


async def main() -> None:
    async with Lab() as lab:
        assert lab.processes is not None, "this lab is our own"
        pids = {node.name: node.pid for node in lab.processes.supervisor.nodes()}
        for number in (1, 2):
            async with lab.vmc_session("example", timeout=30) as session:
                await session.router_open()
                print(f"session {number}:", await session.echo(b"hello"))
                if number == 1:
                    os.kill(pids["hypervisor"] or 0, signal.SIGKILL)  # the supervisor starts another one
                    problem = await session.ended
                    assert isinstance(problem, DeviceError)
                    print(f"session {number} ended:", problem)


asyncio.run(main())
