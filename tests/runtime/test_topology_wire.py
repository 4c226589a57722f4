"""Topologies that travel: they come back as they were, and what is none is refused."""

from __future__ import annotations

import zlib

import pytest

from pvnet.core.errors import ConfigError
from pvnet.runtime.topology import BrokerConfig, default_topology
from pvnet.runtime.topology_wire import TOPOLOGY_MAX, packed, unpacked


def test_comes_back_without_the_broker() -> None:
    broker = BrokerConfig(use="mqtt://somewhere:1883", username="me", password="secret")
    topology = default_topology("travels").model_copy(update={"broker": broker})
    data = packed(topology)
    assert b"secret" not in zlib.decompress(data)
    assert unpacked(data, topology.broker) == topology
    assert unpacked(data, BrokerConfig()).broker == BrokerConfig()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zlib",
        packed(default_topology())[:-3],
        packed(default_topology()) + b"more",
        zlib.compress(b"{"),
        zlib.compress(b'{"partition": [{"name": "NO"}]}'),
        zlib.compress(b" " * (TOPOLOGY_MAX + 1)),
    ],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="new topology"):
        unpacked(data, BrokerConfig())
