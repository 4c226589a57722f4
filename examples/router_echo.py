"""Start a lab, open a VMC session and have the hypervisor's router echo a message."""

import asyncio

from pvnet.client import Lab


async def main() -> None:
    async with Lab() as lab, lab.vmc_session("example") as session:
        await session.router_open()
        print(await session.echo(b"hello, hypervisor"))
        await session.router_close()


asyncio.run(main())
