"""Snoop of a process: ``PVNET_SNOOP`` in the environment, or ``[lab] snoop``, without a change of code.

``PVNET_SNOOP=pcapng:FILE`` (or ``pcapng:|COMMAND``; see :mod:`pvnet.capture.snoop`) is for every process that inherits
it: nodes write ``FILE`` with their name in it, a program of the user's own (the command line, a
:class:`~pvnet.client.lab.Lab`) writes ``FILE`` itself.  ``[lab] snoop`` is for the nodes only: what programs send they
receive.  ``PVNET_SNOOP=off`` turns it off.

A node that is started again within the life of its lab appends a section to its file, so that what led to its end is
kept; the mark of that is a file in the lab's directory.  So does a program that joins a lab several times.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from pvnet.capture.pvcap import make_info
from pvnet.capture.snoop import CLOSE_S, SnoopSink, SnoopTarget, parse_snoop
from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import Topology

SNOOP_VARIABLE: Final = "PVNET_SNOOP"
"""Environment variable: where a process records what it sends and receives."""
_OFF: Final = "off"

_begun: set[str] = set()
"""Targets that this process has begun."""


def topology_json(topology: Topology) -> str:
    """Return a topology for a capture: without the broker, whose password is nobody's business."""
    return topology.model_dump_json(by_alias=True, exclude={"broker"}, exclude_none=True)


def snoop_target(topology: Topology, *, is_node: bool) -> SnoopTarget | None:
    """Return where a process records; None: it does not.

    Raises:
        ConfigError: the environment says something else than a target.
    """
    text = os.environ.get(SNOOP_VARIABLE, "").strip()
    if text == _OFF:
        return None
    if not text:
        snoop = topology.lab.snoop if is_node else None
        return None if snoop is None else parse_snoop(snoop)
    try:
        return parse_snoop(text)
    except ConfigError as error:
        raise ConfigError(f"{SNOOP_VARIABLE}: {error}") from None


def split_snoop(uri: str) -> tuple[str, SnoopTarget | None]:
    """Return an address without ``?snoop=...`` (or ``&snoop=...``) at its end, and what stands there.

    Raises:
        ConfigError: it is no target.
    """
    for mark in ("?snoop=", "&snoop="):
        address, found, text = uri.partition(mark)
        if found:
            return address, parse_snoop(text)
    return uri, None


def open_sink(endpoint: Endpoint, target: SnoopTarget, topology: Topology | None = None) -> SnoopSink:
    """Open a capture of something else than the messages of ``endpoint``, whose node notes how it ends.

    Raises:
        ConfigError: it cannot be written.
    """
    info = make_info("" if topology is None else topology_json(topology))
    return SnoopSink.open(target, endpoint.name, info, lab=endpoint.lab, note=_note_from_thread(endpoint))


def start_snoop(endpoint: Endpoint, topology: Topology, *, directory: str = "") -> SnoopSink | None:
    """Begin to record the messages of a node, if that is wished; ``directory`` is the lab's.

    Raises:
        ConfigError: it is, and cannot be done.
    """
    target = snoop_target(topology, is_node=True)
    return None if target is None else _start(endpoint, topology, target, directory, is_node=True)


def start_program_snoop(endpoint: Endpoint, topology: Topology) -> SnoopSink | None:
    """Begin to record the messages of a user's program, if that is wished; raises as :func:`start_snoop`."""
    target = snoop_target(topology, is_node=False)
    return None if target is None else _start(endpoint, topology, target, "", is_node=False)


def _start(endpoint: Endpoint, topology: Topology, target: SnoopTarget, directory: str, *, is_node: bool) -> SnoopSink:
    key = f"{endpoint.name if is_node else ''} {target}"
    sink = SnoopSink.open(
        target,
        endpoint.name,
        make_info(topology_json(topology)),
        lab=endpoint.lab,
        is_shared=is_node,
        append=key in _begun or (is_node and _is_begun(directory, endpoint.name, target)),
        note=_note_from_thread(endpoint),
    )
    _begun.add(key)
    endpoint.taps.listeners.append(sink.tap)
    endpoint.log.info("snoop", file=sink.name)
    return sink


def _note_from_thread(endpoint: Endpoint) -> Callable[[Note], None]:
    loop = asyncio.get_running_loop()

    def note(ended: Note) -> None:
        note = Note(ended.event, ended.fields, "error")  # who wished a capture does not get it: programs say so, too
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
            loop.call_soon_threadsafe(endpoint.note, note)

    return note


def _is_begun(directory: str, node: str, target: SnoopTarget) -> bool:
    """Whether this node has begun this file in this life of the lab; from now on it has."""
    if not directory:
        return False
    mark = Path(directory) / f"snoop-{node}"
    text = str(target)
    try:
        if mark.read_text(errors="surrogateescape") == text:
            return True
    except OSError:
        pass
    with contextlib.suppress(OSError):
        mark.write_text(text, errors="surrogateescape")
    return False


async def stop_snoop(sink: SnoopSink | None, timeout: float = CLOSE_S) -> None:
    """Write the end; a slow reader has ``timeout`` seconds to take it.  The loop runs on meanwhile."""
    if sink is not None:
        await asyncio.get_running_loop().run_in_executor(None, sink.close, timeout)


@contextlib.asynccontextmanager
async def snooping(endpoint: Endpoint, topology: Topology, *, directory: str = "") -> AsyncIterator[SnoopSink | None]:
    """Record a node's messages meanwhile, if that is wished; raises as :func:`start_snoop`."""
    sink = start_snoop(endpoint, topology, directory=directory)
    try:
        yield sink
    finally:
        await stop_snoop(sink, min(CLOSE_S, topology.lab.stop_timeout_s / 2))
