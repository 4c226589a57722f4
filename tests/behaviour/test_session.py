"""A management application's session from a process of its own: opening, messages of every size, the errno rows."""

from __future__ import annotations

from behaviour_worlds import behaviour

from pvnet.testing.in_process import InProcessLab


@behaviour()
async def test_session_opens_echoes_and_closes(lab: InProcessLab) -> None:
    async with await lab.session() as session:
        await session.router_open()
        assert await session.echo(b"hello") == b"hello"
        assert await session.echo(b"") == b""
        await session.router_close()
    await lab.leave()
