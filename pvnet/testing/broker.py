"""A real broker for a test: ``async with broker("mosquitto") as running: ... running.url``."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from pvnet.runtime.broker import Broker, TlsFiles
from pvnet.runtime.topology import BrokerConfig


@asynccontextmanager
async def broker(
    kind: Literal["auto", "mosquitto", "embedded"] = "auto",
    *,
    port: int = 0,
    tls: TlsFiles | None = None,
    timeout: float = 10.0,
) -> AsyncIterator[Broker]:
    """Start a broker in a temporary directory and yield it; it is gone afterwards, whatever happened.

    The handle has ``url`` (a ``BrokerUrl`` with user and password), ``kill()`` (as a crash) and ``restart()`` (at the
    same address).  ``tls`` makes mosquitto speak TLS on ``localhost``.

    :raises ConfigError: that kind is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="pvnet-broker-") as scratch:
        directory = Path(scratch)
        running = Broker(BrokerConfig(use=kind, port=port), directory=directory, log=directory / "log", tls=tls)
        try:
            await running.start(timeout=timeout)
            yield running
        finally:
            await running.stop()
