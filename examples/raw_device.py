"""Use ``/dev/ibmvmc`` call by call, as a C program would: open, QUERY, SETHMCID, write, read, close."""

import asyncio
import errno

from pvnet.client import Lab
from pvnet.core.errors import DeviceError


async def main() -> None:
    async with Lab() as lab, lab.vmc_device() as device:
        print("driver state:", (await device.query()).state)  # 3 is ready
        await device.set_hmc_id("example")  # returns before the hypervisor has agreed
        while True:
            try:
                await device.write(b"any bytes")  # the default hypervisor sends them back
                break
            except DeviceError as error:
                if error.errno != errno.EBUSY:  # EBUSY: the session is still opening, or no buffer is free
                    raise
                await asyncio.sleep(0.01)
        print("answer:", await device.read())


asyncio.run(main())
