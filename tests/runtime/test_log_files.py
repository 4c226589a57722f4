"""Logs that are kept short: nothing that is still there is lost or shown twice, whenever one looks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from behaviour_worlds import eventually
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import StandIns, small_lab

from pvnet.runtime.log_files import LogReader, older_part, shorten
from pvnet.runtime.supervisor import Supervisor

STEPS = st.lists(st.one_of(st.integers(0, 40), st.sampled_from(["shorten", "read"])), max_size=40)


@settings(deadline=None)
@given(steps=STEPS)
def test_a_reader_gets_every_byte_that_is_still_there_once(tmp_path_factory: pytest.TempPathFactory, steps) -> None:
    log = tmp_path_factory.mktemp("logs") / "a.log"
    written = b""
    reader = LogReader(log)
    got = 0  # how far it has read, in bytes of all that was written
    begin = 0  # the first byte that is still there
    base = 0  # the first byte of the log of now
    for step in [*steps, "read"]:
        if isinstance(step, int):
            piece = b"".join(b"%d\n" % (len(written) + i) for i in range(step))
            written += piece
            with log.open("ab") as file:
                file.write(piece)
        elif step == "shorten" and log.exists() and shorten(log, 64):
            base = len(written)
            begin = max(0, base - 64)
            assert log.stat().st_size == 0
        elif step == "read":
            assert reader.read() == written[max(got, begin) if got < base else got :]
            got = len(written)
    reader.close()
    other = LogReader(log)
    whole = other.read()
    other.close()
    assert whole == written[begin:]
    assert len(whole) <= 64 + len(written) - base


def test_both_parts_are_bounded_and_the_older_says_what_it_is(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 1000)
    assert not shorten(log, 1000)
    assert not older_part(log).exists()
    assert shorten(log, 300)
    log.write_bytes(b"y" * 500)
    assert shorten(log, 300)
    first, rest = older_part(log).read_bytes().split(b"\n", 1)
    assert first.rstrip() == b"(pvnet: bytes 1200 to 1500 of this log)"
    assert rest == b"y" * 300
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.1"]
    assert older_part(log).stat().st_mode & 0o777 == 0o600


def test_a_log_whose_older_part_cannot_be_written_is_as_it_was(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 1000)
    (tmp_path / "a.log.1.new").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        shorten(log, 300)
    assert log.read_bytes() == b"x" * 1000


async def test_the_supervisor_keeps_logs_short_while_a_node_writes(tmp_path: Path) -> None:
    standins = StandIns(tmp_path)
    supervisor = Supervisor(
        small_lab(),
        launcher=standins.launch,
        readiness=standins.make_readiness,
        base=tmp_path / "base",
        log_bytes=4096,
        logs_s=0.01,
    )
    async with supervisor:
        log = supervisor.directory.log("mp")
        reader = LogReader(log)
        got = reader.read()
        assert got == b"I am mp\n"
        writer = os.open(log, os.O_WRONLY | os.O_APPEND)
        try:
            for number in range(1000):
                os.write(writer, b"%050d\n" % number)
                if not number % 20:
                    await asyncio.sleep(0.011)
                got += reader.read()
        finally:
            os.close(writer)

        async def is_short() -> bool:
            return log.stat().st_size <= 4096

        await eventually(is_short)
        got += reader.read()
        reader.close()
        lines = got.splitlines()[1:]
        assert len(lines) >= 990  # lost is only what comes in the very moment of the cut
        assert lines == sorted(set(lines))
        assert older_part(log).stat().st_size <= 4096 + 80
        assert supervisor.directory.log("lpar1").read_bytes() == b"I am lpar1\n"
