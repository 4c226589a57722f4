"""A management application in a process of its own, told what to do by lines on standard input.

``python -m system_app LAB BASE``: joins the lab, holds a session, and opens a new one whenever it ends.  Answers are
JSON lines: ``open`` (a session is there), ``echo`` (number of the message that came back), ``error`` (what ended a
session or an echo), ``done``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pvnet.client import Lab, VmcSession
from pvnet.core.errors import PvnetError


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def say_error(error: PvnetError) -> None:
    say(error=type(error).__name__, errno=getattr(error, "errno", None), text=str(error))


async def new_session(lab: Lab, hmc_id: str) -> VmcSession:
    while True:
        try:
            session = await lab.vmc_session(hmc_id, timeout=60.0).open()
        except PvnetError as error:
            say_error(error)
            await asyncio.sleep(0.05)
            continue
        try:
            await session.router_open()
        except PvnetError as error:
            say_error(error)
            await session.close()
            continue
        say(open=True)
        return session


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(name: str, base: Path) -> None:
    commands = await lines()
    async with Lab.join(name, base=base) as lab:
        session = await new_session(lab, "system-app")
        while True:
            command = asyncio.ensure_future(commands.readline())
            await asyncio.wait({command, session.ended}, return_when=asyncio.FIRST_COMPLETED)
            if command.done():
                word = command.result().decode().split()
                if not word:
                    break
                await echo(session, int(word[1]))
            else:
                command.cancel()
            if session.ended.done():
                say_error(session.ended.result())
                await session.close()
                session = await new_session(lab, "system-app")
        await session.close()
    say(done=True)


async def echo(session: VmcSession, count: int) -> None:
    for number in range(count):
        data = b"%d" % number
        try:
            answer = await session.echo(data)
        except PvnetError as error:
            say_error(error)
            await asyncio.wait([session.ended], timeout=0 if session.ended.done() else 30)
            return
        if answer != data:
            say(wrong=answer.hex())
        say(echo=number)
    say(finished=count)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
