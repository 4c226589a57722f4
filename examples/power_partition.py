"""Power a partition on and off.  The command goes through the manager, the VMC, the hypervisor and the supervisor."""

import asyncio

from pvnet.client import Lab
from pvnet.pb.v1.management_pb2 import ListPartitions, Management, Partition, PowerOff, PowerOn


async def show(lab: Lab) -> None:
    reply = await lab.manage(Management(list_partitions=ListPartitions()))
    print(", ".join(f"{p.name} {Partition.State.Name(p.state).lower()}" for p in reply.partitions))


async def main() -> None:
    async with Lab() as lab:
        await show(lab)
        await lab.manage(Management(power_on=PowerOn(name="lpar2")))
        await show(lab)
        await lab.manage(Management(power_off=PowerOff(name="lpar2")))
        await show(lab)


asyncio.run(main())
