"""A topology on its way from the supervisor to a node that runs (``UseTopology``)."""

from __future__ import annotations

import zlib
from typing import Final

from pydantic import ValidationError

from pvnet.core.errors import ConfigError
from pvnet.runtime.topology import BrokerConfig, Topology

TOPOLOGY_MAX: Final = 32 << 20
"""Most bytes of a topology as JSON; a thousand partitions are about one MiB."""


def packed(topology: Topology) -> bytes:
    """Return a topology as ``UseTopology.topology``; the broker stays out, with its password."""
    text = topology.model_dump_json(by_alias=True, exclude={"broker"}, exclude_defaults=True)
    return zlib.compress(text.encode())


def unpacked(data: bytes, broker: BrokerConfig) -> Topology:
    """Return the topology in ``UseTopology.topology``, with the broker that the receiver knows.

    Raises:
        ConfigError: it is none.
    """
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, TOPOLOGY_MAX)
    except zlib.error as error:
        raise ConfigError(f"the new topology cannot be read: {error}") from None
    if not inflate.eof or inflate.unused_data:
        raise ConfigError(f"the new topology is cut short or longer than {TOPOLOGY_MAX} bytes")
    try:
        topology = Topology.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"])
        raise ConfigError(f"the new topology is none: {where}: {first['msg']}") from None
    return topology.model_copy(update={"broker": broker})
