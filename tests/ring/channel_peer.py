"""The other end of a channel, as a program: ``python channel_peer.py WHAT OFFER PARENT``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import uvloop

from pvnet.runtime.ring_channel import SPIN_SECONDS, ChannelOffer, RingChannel


async def main(what: str, text: str, parent: int) -> None:
    channel = RingChannel.attach(ChannelOffer.from_text(text), peer_pid=parent, spin_seconds=SPIN_SECONDS)
    match what:
        case "echo" | "echo-array":
            while True:
                messages = await channel.recv()
                if not messages:
                    break
                await channel.send(messages)
        case "die":
            await channel.send([b"last words"] * 3)
            os.kill(os.getpid(), signal.SIGKILL)
        case "close":
            await channel.send([b"last words"] * 3)
        case "sink":
            await channel.send([b"ready"])
            total = 0
            while messages := await channel.recv():
                total += len(messages)
                if messages[-1] == b"end":
                    break
            await channel.send([str(total).encode(), str(channel.counters.rescues).encode()])
    channel.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
