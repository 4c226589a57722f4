"""``pvnet mount``: the device node of a running lab as a file, for programs that open it by themselves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, run, say, say_json
from pvnet.client import Lab
from pvnet.client.fuse_mount import FuseMount, check_directory
from pvnet.runtime.lab_dir import find_lab
from pvnet.runtime.topology import SUPERVISOR


def mount(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty directory.")],
    allow_other: Annotated[
        bool,
        typer.Option(
            "--allow-other", help="Let all users open the file (if not root: needs user_allow_other in /etc/fuse.conf)."
        ),
    ] = False,
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Mount /dev/ibmvmc of a lab as DIR/ibmvmc (FUSE), until Ctrl-C, `pvnet down` or `fusermount3 -u DIR`.

    Programs open, read, write, poll and close it and make its ioctls, as they do with the device node.
    """
    run(_mount(directory, lab, timeout, allow_other=allow_other, as_json=as_json))


async def _mount(directory: Path, lab_name: str | None, timeout: float, *, allow_other: bool, as_json: bool) -> None:
    check_directory(directory)
    _, info = find_lab(lab_name)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    gone = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, task.cancel)  # the terminal is closed
    async with AsyncExitStack() as stack:
        supervisor = os.pidfd_open(info.pid)  # its end is the lab's, also when no message can tell it any more
        stack.callback(os.close, supervisor)
        loop.add_reader(supervisor, gone.set)
        stack.callback(loop.remove_reader, supervisor)
        lab = await stack.enter_async_context(Lab.join(info.lab))
        lab.endpoint.on_peer_down.append(lambda event: gone.set() if event.node == SUPERVISOR else None)
        lab.endpoint.watch(SUPERVISOR)
        mounted = await stack.enter_async_context(
            FuseMount(lab, directory, allow_other=allow_other, timeout=timeout, complain=_complain)
        )
        if as_json:
            say_json({"file": str(mounted.path), "lab": lab.name, "partition": mounted.partition})
        else:
            say(f"{mounted.path} is /dev/ibmvmc of {mounted.partition} in lab {lab.name}; Ctrl-C unmounts it")
        sys.stdout.flush()
        ends = [asyncio.ensure_future(event.wait()) for event in (gone, mounted.ended)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        _complain(f"lab {lab.name} has ended" if gone.is_set() else f"{mounted.directory} has been unmounted")


def _complain(text: str) -> None:
    sys.stderr.write(f"pvnet: {text}\n")
    sys.stderr.flush()
