"""Two partitions with a CRQ between them: 16-byte elements in, the same elements out on the other side."""

import asyncio
import errno

from pvnet.client import Lab
from pvnet.core.errors import DeviceError
from pvnet.runtime.topology import CrqPair, LabConfig, PartitionConfig, Topology

TOPOLOGY = Topology(
    lab=LabConfig(name="crq-example"),
    partition=[PartitionConfig(name="left"), PartitionConfig(name="right")],
    crq=[CrqPair(a="left:0x30000010", b="right:0x30000010")],
)


async def main() -> None:
    async with Lab(TOPOLOGY) as lab, lab.crq_device("left") as left, lab.crq_device("right") as right:
        while True:
            try:
                await left.write(b"\x80\x01" + b"hello, partner")  # header 0x80: a command; the rest is up to the users
                break
            except DeviceError as error:
                if error.errno != errno.ENOTCONN:  # the two drivers have not greeted each other yet
                    raise
                await asyncio.sleep(0.01)
        print(await right.read(16))


asyncio.run(main())
