"""The last state of a node: its port goes only when the broker has passed it on (amqtt forgets it otherwise)."""

from __future__ import annotations

import pytest

from pvnet.core.names import NodeName
from pvnet.testing.broker import broker
from pvnet.transport.mqtt import MqttPort


class Hearing:
    """Remembers the states that arrive."""

    def __init__(self) -> None:
        self.states: list[tuple[str, bytes]] = []

    def frame_received(self, source: str, channel: str, payload: bytes) -> None:
        raise AssertionError("nobody sends")

    def state_received(self, node: str, payload: bytes) -> None:
        self.states.append((node, payload))

    def next_will(self, connection: int) -> bytes:
        return b"lost"

    def port_connected(self, connection: int) -> None:
        pass

    def port_disconnected(self, reason: str) -> None:
        pass


@pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "embedded"])
async def test_port_closes_after_its_last_word_went_out(kind: str) -> None:
    async with broker(kind) as running:  # type: ignore[arg-type]
        for number in range(20):
            heard = Hearing()
            port = MqttPort(running.url, lab="words", name=NodeName(f"n{number}"), client_id=f"n{number}")
            await port.open(heard, timeout=30)
            word = b"last word of %d" % number
            await port.close(word)
            assert heard.states[-1] == (f"n{number}", word)
