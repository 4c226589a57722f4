"""Whom a link knows: living peers, dead ones in the order of their deaths, and what is remembered of those forgotten.

Records of peers that are not up are kept as long as there is room (``LinkConfig.dead_kept``), since they may come back;
then the one that is dead for the longest time goes.  Of it a :class:`~pvnet.transport.link_parts.Grave` stays, or a
late duplicate of a short-lived client's call would run again.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from pvnet.core.names import NodeName
from pvnet.transport.link_parts import Grave, Life, LinkConfig, LinkOutput, Peer, Unwatch, Watch

_LOOKED_AT: Final = 16
"""Of the dead, in search of one that may go: a bound for the work of one message."""


class PeerTable:
    """See the module's text."""

    def __init__(self, config: LinkConfig) -> None:
        self.peers: dict[str, Peer] = {}
        self._config = config
        self._dead: dict[str, None] = {}
        """Names of peers that are not up and not watched, the longest dead first."""
        self._graves: dict[str, Grave] = {}

    @property
    def graves(self) -> int:
        """How many peers are forgotten and remembered."""
        return len(self._graves)

    @property
    def is_crowded(self) -> bool:
        """Whether there are more dead peers than are kept."""
        return len(self._dead) > self._config.dead_kept

    def keep(self, name: str) -> None:
        """A peer is up, or watched: its record stays."""
        self._dead.pop(name, None)

    def rest(self, name: str) -> None:
        """A peer is not up and nobody watches it: its record may go, after those that are dead already."""
        self._dead[name] = None

    def add(self, name: NodeName, out: list[LinkOutput]) -> Peer:
        """Make the record of a peer, of which nothing is known yet but what its grave says."""
        if len(self._dead) >= self._config.dead_kept:
            self.bury_one(out)
        peer = self.peers[name] = Peer(name)
        self.rest(name)
        grave = self._graves.pop(name, None)
        if grave is not None:
            peer.raise_from(grave)
        out.append(Watch(name))
        return peer

    def bury_one(self, out: list[LinkOutput], *, fenced: bool = False) -> bool:
        """Drop the record of the peer that is dead for the longest time, and for which nothing waits.

        A fenced peer may come back and must then be told that we had given it up: it goes only in need.
        """
        for name in list(islice(self._dead, _LOOKED_AT)):
            peer = self.peers[name]
            if not peer.backlog.count and (fenced or peer.life is not Life.FENCED):
                self.bury(peer, out)
                return True
            del self._dead[name]
            self._dead[name] = None
        return False

    def bury(self, peer: Peer, out: list[LinkOutput]) -> None:
        """Drop a record."""
        del self.peers[peer.name]
        self._dead.pop(peer.name, None)
        if peer.incarnation:
            self._graves[peer.name] = peer.bury()
            if len(self._graves) > self._config.graves:
                del self._graves[next(iter(self._graves))]
        out.append(Unwatch(peer.name))
