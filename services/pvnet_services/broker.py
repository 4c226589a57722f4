"""The embedded broker: amqtt in a process of its own, ``python -m pvnet_services.broker --config FILE``.

The file is JSON with ``host``, ``port``, ``username`` and ``password``.  A process of its own, because a slow password
check or a burst would stop every other thing on the same event loop.  The one user's password is compared here rather
than by amqtt's file plugin: that hashes for 150 ms on the loop at each connection, which protects nothing when the
password is random and lives as long as the process.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.broker import Broker, BrokerContext
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session


class LabAuth(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types that mypy is given
    """Lets in who knows the lab's user and password."""

    @dataclass
    class Config:
        """The one user."""

        username: str = ""
        password: str = ""

    def __init__(self, context: BrokerContext) -> None:
        super().__init__(context)
        self._user = context.config.username.encode()
        self._password = context.config.password.encode()

    async def authenticate(self, *, session: Session) -> bool:
        """Compare both in constant time."""
        user, password = (session.username or "").encode(), (session.password or "").encode()
        return hmac.compare_digest(user, self._user) and hmac.compare_digest(password, self._password)


class Subscriptions(dict[str, Any]):
    """amqtt's table of filters, safe to change while it is being gone through.

    amqtt 0.12.1 awaits inside such loops; when another client subscribed meanwhile, the connection that was just being
    made would hang for ever, unanswered.
    """

    def __iter__(self) -> Iterator[str]:
        """Go through the filters of now."""
        return iter(list(self.keys()))

    def items(self) -> Any:
        """Return the filters and subscribers of now."""
        return list(super().items())


def broker_config(settings: dict[str, Any]) -> dict[str, Any]:
    """Return amqtt's configuration: one listener, one user."""
    user = {"username": settings["username"], "password": settings["password"]}
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{settings['host']}:{settings['port']}"}},
        "plugins": {f"pvnet_services.broker.{LabAuth.__name__}": user},
    }


async def serve(settings: dict[str, Any]) -> None:
    """Run until SIGTERM or SIGINT."""
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    broker = Broker(broker_config(settings))
    broker._subscriptions = Subscriptions()
    await broker.start()
    await end.wait()
    await broker.shutdown()


def main() -> None:
    """Read the file that ``--config`` names and serve."""
    import uvloop

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
