"""The frame of every node process: arguments, log, event loop, signals, one life.

``python -m pvnet_services.KIND --config JSON``: the JSON is a :class:`NodeConfig`.  SIGTERM ends the node in good
order; SIGINT is ignored (Ctrl-C reaches the whole terminal group, but the supervisor decides).  A node that cannot
start prints one line to stderr and exits with the error's code; the supervisor shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from pvnet.core.errors import ConfigError, PvnetError
from pvnet.core.names import check_name
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.log import configure_logging
from pvnet.runtime.snoop import snooping
from pvnet.runtime.topology import Topology
from pvnet.transport.base import Port
from pvnet.transport.mqtt import MqttPort
from pvnet.transport.unix import UnixPort
from pvnet.transport.unix_hello import socket_directory
from pvnet.transport.uri import BrokerUrl

UNIX_VARIABLE: Final = "PVNET_UNIX"
"""Environment variable: ``never`` forbids direct paths; ``auto``, as without it, takes them where there is one."""


class NodeConfig(BaseModel):
    """What a node process is told: who it is, where the broker is, and the lab's whole topology."""

    model_config = ConfigDict(extra="forbid")

    node: str
    broker: str
    """Address of the broker, with user and password."""
    topology: Topology
    directory: str = ""
    """Directory of the lab, for what lives as long as it (storage without a backing of its own)."""
    log_json: bool = False


class Node(Protocol):
    """A node: something with a life of its own on an endpoint."""

    endpoint: Endpoint

    async def start(self) -> None:
        """Serve; returns when the node is ready."""

    async def stop(self) -> None:
        """End in good order."""


NodeFactory = Callable[[Endpoint, NodeConfig], Node]
"""Makes a node and registers its handlers; the endpoint starts afterwards."""


def make_port(broker: str, lab: str, name: str, *, unix: bool = True) -> Port:
    """Return a port to a broker's lab for the node ``name``.

    With ``unix`` frames to processes of this host take a unix socket (``transport.unix``), unless the environment says
    ``PVNET_UNIX=never``.

    Raises:
        ConfigError: the name or the broker's address is none, or ``PVNET_UNIX`` is something else.
    """
    wish = os.environ.get(UNIX_VARIABLE, "")
    if wish not in {"", "auto", "never"}:
        raise ConfigError(f"{UNIX_VARIABLE}={wish[:60]!r}: expected never, or auto")
    node = check_name(name)
    port = MqttPort(BrokerUrl.parse(broker), lab=lab, name=node, client_id=f"pvnet-{lab}-{name}-{os.getpid():x}")
    if not unix or wish == "never":
        return port
    return UnixPort(port, lab=lab, name=node, directory=socket_directory())


def run_service(role: str, factory: NodeFactory, arguments: list[str] | None = None) -> int:
    """Run one node until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"pvnet_services.{role}", description=f"A pvnet {role} process.")
    parser.add_argument("--config", required=True, metavar="JSON", help="a NodeConfig; - reads it from standard input")
    parser.add_argument("--go", type=int, metavar="FD", help="wait for the end of this file before reading --config")
    given = parser.parse_args(arguments)
    if given.go is not None:
        import uvloop  # all that takes long is loaded now

        with os.fdopen(given.go, "rb") as gate:
            gate.read()
    try:
        config = NodeConfig.model_validate_json(sys.stdin.read() if given.config == "-" else given.config)
    except ValidationError as error:
        first = error.errors()[0]
        sys.stderr.write(f"--config {'.'.join(map(str, first['loc']))}: {first['msg']}\n")
        return ConfigError.exit_code
    configure_logging(level=config.topology.lab.log_level, json_lines=config.log_json)
    try:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_live(role, factory, config))
    except PvnetError as error:
        sys.stderr.write(f"{config.node}: {error}\n")
        return error.exit_code


async def _live(role: str, factory: NodeFactory, config: NodeConfig) -> int:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    lab = config.topology.lab
    port = make_port(config.broker, lab.name, config.node, unix=lab.unix)
    endpoint = Endpoint(port, lab=lab.name, name=config.node, role=role)
    async with snooping(endpoint, config.topology, directory=config.directory):
        return await _serve(endpoint, factory, config, asked)


async def _serve(endpoint: Endpoint, factory: NodeFactory, config: NodeConfig, asked: asyncio.Event) -> int:
    loop = asyncio.get_running_loop()
    lab = config.topology.lab
    node = factory(endpoint, config)
    await endpoint.start(timeout=lab.ready_timeout_s)
    try:
        starting = loop.create_task(node.start())
        stop = loop.create_task(asked.wait())
        superseded = loop.create_task(endpoint.superseded.wait())
        await asyncio.wait({starting, stop, superseded}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await asyncio.wait({stop, superseded}, return_when=asyncio.FIRST_COMPLETED)
        for task in (starting, stop, superseded):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if endpoint.superseded.is_set():
            raise ConfigError(f"another process took the name {config.node!r} in lab {lab.name}")
    except PvnetError as error:
        await endpoint.stop(str(error))
        raise
    await node.stop()
    return 0
