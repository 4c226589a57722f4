"""Faults on a real broker and on unix sockets: the link repairs them; the dice say what they did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pvnet.core.errors import ConfigError
from pvnet.core.names import NodeName
from pvnet.testing.contract import (
    SCENARIOS,
    LoopbackUnderTest,
    MqttNetwork,
    MqttUnderTest,
    Network,
    Scenario,
    calls_run_exactly_once_and_in_order,
    order_holds_across_channels,
    run,
    two_nodes_call_each_other,
)
from pvnet.testing.unix import UnixNetwork, UnixUnderTest
from pvnet.transport.base import Channel, Port
from pvnet.transport.impair import ImpairedPort
from pvnet.transport.loopback import FaultDice, Faults
from pvnet.transport.mqtt import MqttPort

BAD = Faults(drop=0.003, duplicate=0.1, reorder=0.2, reorder_s=0.005)
B = NodeName("b")


class Recorder:
    """A port that only remembers what it was given."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, destination: str, channel: str, payload: bytes) -> None:
        self.sent.append(payload)


class ImpairedMqtt(MqttUnderTest):
    """Mosquitto with every port impaired."""

    def __init__(self) -> None:
        super().__init__("mosquitto")
        self.ports: list[ImpairedPort] = []

    @asynccontextmanager
    async def network(self) -> AsyncIterator[Network]:
        async with super().network() as network:
            assert isinstance(network, MqttNetwork)
            yield ImpairedNetwork(network, self.ports)


class ImpairedNetwork:
    def __init__(self, inner: MqttNetwork, ports: list[ImpairedPort]) -> None:
        self._inner = inner
        self._ports = ports

    def port(self, name: NodeName) -> Port:
        self._ports.append(ImpairedPort(self._inner.port(name), BAD, seed=len(self._ports)))
        return self._ports[-1]

    async def kill(self, port: Port) -> None:
        assert isinstance(port, ImpairedPort)
        inner = port._port
        assert isinstance(inner, MqttPort)
        await self._inner.kill(inner)


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_contract_holds_over_an_impaired_broker(scenario: Scenario) -> None:
    transport = ImpairedMqtt()
    run(transport, scenario)
    if scenario in {calls_run_exactly_once_and_in_order, two_nodes_call_each_other, order_holds_across_channels}:
        for fault in ("dropped", "duplicated", "reordered"):
            assert sum(port.dice.counters[fault] for port in transport.ports), f"nothing was {fault}"


class ImpairedUnix(UnixUnderTest):
    """Direct paths over the loopback network; every frame, direct or not, is impaired."""

    def __init__(self) -> None:
        super().__init__(LoopbackUnderTest())
        self.ports: list[ImpairedPort] = []

    @asynccontextmanager
    async def _network(self) -> AsyncIterator[Network]:
        async with super()._network() as network:
            assert isinstance(network, UnixNetwork)
            yield ImpairedUnixNetwork(network, self.ports)


class ImpairedUnixNetwork:
    def __init__(self, inner: UnixNetwork, ports: list[ImpairedPort]) -> None:
        self._inner = inner
        self._ports = ports

    def port(self, name: NodeName) -> Port:
        self._ports.append(ImpairedPort(self._inner.port(name), BAD, seed=len(self._ports)))
        return self._ports[-1]

    async def kill(self, port: Port) -> None:
        assert isinstance(port, ImpairedPort)
        await self._inner.kill(port._port)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_contract_holds_over_impaired_unix_sockets(scenario: Scenario) -> None:
    transport = ImpairedUnix()
    run(transport, scenario)
    if scenario in {calls_run_exactly_once_and_in_order, two_nodes_call_each_other, order_holds_across_channels}:
        for fault in ("dropped", "duplicated", "reordered"):
            assert sum(port.dice.counters[fault] for port in transport.ports), f"nothing was {fault}"
        (network,) = transport.networks
        assert sum(port.paths.counters["paths"] for port in network.ports) >= 2, "no path came about"


async def test_certain_loss_and_certain_duplication() -> None:
    inner = Recorder()
    port = ImpairedPort(inner, Faults(drop=1.0), seed=1)  # type: ignore[arg-type]
    port.send(B, Channel.CALL, b"1")
    assert inner.sent == []
    port.impair(Faults(duplicate=1.0, reorder_s=0.0))
    port.send(B, Channel.CALL, b"2")
    assert inner.sent == [b"2", b"2"]
    port.impair(Faults())
    port.send(B, Channel.CALL, b"3")
    assert inner.sent == [b"2", b"2", b"3"]
    assert port.dice.counters == {"dropped": 1, "duplicated": 1}


def test_the_same_seed_gives_the_same_faults() -> None:
    faults = Faults(drop=0.3, duplicate=0.3, reorder=0.3, delay_s=0.01)
    first, second, other = (FaultDice(faults, seed) for seed in (5, 5, 6))
    runs = [[dice.copies() for _ in range(200)] for dice in (first, second, other)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("wrong", [{"drop": 1.5}, {"duplicate": -0.1}, {"delay_s": -1.0}, {"reorder_s": -1.0}])
def test_faults_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Faults(**wrong)
