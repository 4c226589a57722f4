"""``pvnet record``: a running lab into a capture file."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Annotated

import typer

from pvnet.cli.run import JsonOption, LabOption, run, say, say_json
from pvnet.client import Lab
from pvnet.core.errors import ConfigError

_FOR_EVER_S = 1 << 30


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
    """Record everything that a running lab says, until Ctrl-C.

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
            writer = CaptureWriter(file.write, make_info(topology_json(lab.topology)))
            recorder = await stack.enter_async_context(Recorder(lab, writer, snaplen=snaplen, flush=file.flush))
            for problem in recorder.problems:
                sys.stderr.write(f"pvnet: {problem}\n")
            sys.stderr.write(f"recording {len(recorder.nodes)} nodes of lab {lab.name}; Ctrl-C ends it\n")
            sys.stderr.flush()
            most = len(recorder.nodes)
            try:
                await asyncio.sleep(seconds if seconds is not None else _FOR_EVER_S)
            except asyncio.CancelledError:  # Ctrl-C or SIGTERM: the ordinary end of a recording
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
            most = max(most, len(recorder.nodes))
        file.flush()
        return {
            "records": sum(recorder.received.values()),
            "nodes": most,
            "dropped": sum(recorder.dropped.values()),
        }
