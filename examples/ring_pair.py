"""Two processes exchange batches of messages through shared memory; this program is both of them."""

import asyncio
import sys

from pvnet.runtime.ring_channel import ChannelOffer, RingChannel


async def main() -> None:
    channel = RingChannel.create(slot_bytes=64)
    command = [sys.executable, __file__, channel.offer.to_text()]
    process = await asyncio.create_subprocess_exec(*command, pass_fds=channel.offer.fds)
    await channel.send([b"message %d" % number for number in range(1000)])
    answers: list[bytes] = []
    while len(answers) < 1000:
        answers += await channel.recv()
    channel.close()
    await process.wait()
    print(len(answers), answers[0], answers[-1])


async def other(offer: str) -> None:
    channel = RingChannel.attach(ChannelOffer.from_text(offer))
    while messages := await channel.recv():  # none: the other end has closed
        await channel.send([message.upper() for message in messages])
    channel.close()


asyncio.run(other(sys.argv[1]) if sys.argv[1:] else main())
