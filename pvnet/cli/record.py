"""``pvnet record``: a running lab into a capture file."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from pvnet.cli.run import JsonOption, LabOption, run, say, say_json
from pvnet.client import Lab
from pvnet.core.errors import ConfigError
from pvnet.runtime.topology import SUPERVISOR

_WAITING_BYTES = 32 << 20
_FINISH_S = 5.0


def record(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A .pcapng file; - is standard output (a pipe).")
    ],
    snaplen: Annotated[
        int,
        typer.Option("--snaplen", min=0, max=65536, help="Bytes of each RDMA copy and switch frame; 0: only messages."),
    ] = 0,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.001, max=86400, help="How long; without it until Ctrl-C.")
    ] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record everything that a running lab says, until Ctrl-C or its end.

    The lab is never held up: what cannot be written in time is dropped, counted, and the file says how much.
    """
    counts = run(_record(output, snaplen, seconds, lab))
    out = sys.stderr if str(output) == "-" else sys.stdout
    if as_json:
        say_json(counts)
        return
    where = "standard output" if str(output) == "-" else str(output)
    text = f"{counts['records']} records of {counts['nodes']} nodes in {where}, {counts['dropped']} dropped"
    if out is sys.stdout:
        say(text)
    else:
        out.write(text + "\n")


class _Behind:
    """A file that is written to by a thread, so that a reader who is slow holds up nobody."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._given = 0
        self._written = 0
        """Bytes; each is changed by one thread only."""
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="record", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Have it written."""
        self._given += len(data)
        self._waiting.put(data)

    def has_room(self) -> bool:
        """Whether less than :data:`_WAITING_BYTES` wait."""
        return self._given - self._written < _WAITING_BYTES and self.error is None

    def _work(self) -> None:
        while (data := self._waiting.get()) is not None:
            try:
                if self.error is None:
                    self._file.write(data)
                    if self._waiting.empty():
                        self._file.flush()
            except OSError as error:
                self.error = error
            self._written += len(data)

    async def finish(self) -> None:
        """Wait until everything is written, or for :data:`_FINISH_S` where the reader does not read."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join, _FINISH_S)


async def _record(output: Path, snaplen: int, seconds: float | None, lab_name: str | None) -> dict[str, int]:
    from pvnet.capture.pvcap import CaptureWriter, make_info
    from pvnet.client.recorder import Recorder
    from pvnet.runtime.snoop import topology_json

    with ExitStack() as files:
        async with AsyncExitStack() as stack:
            lab = await stack.enter_async_context(Lab.join(lab_name))
            try:
                file = sys.stdout.buffer if str(output) == "-" else files.enter_context(output.open("wb"))
            except OSError as error:
                raise ConfigError(f"--output {output}: {error.strerror}") from None
            behind = _Behind(file)
            stack.push_async_callback(behind.finish)
            writer = CaptureWriter(behind.write, make_info(topology_json(lab.topology)))
            recorder = await stack.enter_async_context(Recorder(lab, writer, snaplen=snaplen, room=behind.has_room))
            for problem in recorder.problems:
                sys.stderr.write(f"pvnet: {problem}\n")
            sys.stderr.write(f"recording {len(recorder.nodes)} nodes of lab {lab.name}; Ctrl-C ends it\n")
            sys.stderr.flush()
            most = len(recorder.nodes)
            gone = asyncio.Event()
            lab.endpoint.on_peer_down.append(lambda event: gone.set() if event.node == SUPERVISOR else None)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await gone.wait()
                        sys.stderr.write(f"lab {lab.name} has ended\n")
            except asyncio.CancelledError:  # Ctrl-C or SIGTERM: the ordinary end of a recording
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
            most = max(most, len(recorder.nodes))
        if behind.error is not None:
            raise ConfigError(f"--output {output}: {behind.error.strerror}")
        return {
            "records": sum(recorder.received.values()),
            "nodes": most,
            "dropped": sum(recorder.dropped.values()),
        }
