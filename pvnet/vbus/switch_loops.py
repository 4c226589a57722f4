"""How a switch notices that two of its ports are joined outside.

A frame to everybody that comes back through another port is sent to everybody again, and again: a loop brings all
partitions down.  Two signs of one:

* **Probes.** Every ``probe_interval_s`` each port sends a frame of its own (experimental ethertype 0x88B5, to a group
  address that other switches forward).  If it comes in again, there is a loop, and of the two ports the one that was
  plugged in later is blocked for ``block_s``; as long as probes come back the time starts anew.  The frame carries a
  keyed hash, so that a partition cannot have other ports blocked by making probes up: it can at most return its own
  and block itself.
* **Flapping.** One source address that moves between ports more than ``flap_limit`` times within a second: a loop
  beyond something that swallows probes, or somebody who uses an address that is not his.  Nobody is blocked, since we
  cannot know which; the address stays where it was first for ``block_s``, and its frames at other ports are dropped.
"""

from __future__ import annotations

import struct
from hashlib import blake2s
from typing import Final

PROBE_ETHERTYPE: Final = b"\x88\xb5"
PROBE_DESTINATION: Final = b"\x03pvnet"
"""A locally administered group address."""
PROBE_BYTES: Final = 60

_MAGIC: Final = b"pvnet loop probe"
_BODY: Final = struct.Struct(">II")  # port number, round
_HASH: Final = 12
_BODY_AT: Final = 14 + len(_MAGIC)
_HASH_AT: Final = _BODY_AT + _BODY.size


class Prober:
    """Makes the probes of one switch and knows them again.

    ``secret`` is 16 to 32 random bytes, different in every switch and every life of it.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        # A locally administered unicast address of this switch.
        self.mac = b"\x02" + blake2s(b"mac", key=secret, digest_size=5).digest()
        self._round = 0

    def next_round(self) -> None:
        """Start a round: probes older than the round before are not believed any more."""
        self._round = (self._round + 1) & 0xFFFFFFFF

    def frame(self, port: int) -> bytes:
        """Return the probe to be sent out of the port with this number in the current round."""
        return self._frame(port, self._round)

    def _frame(self, port: int, number: int) -> bytes:
        start = PROBE_DESTINATION + self.mac + PROBE_ETHERTYPE + _MAGIC + _BODY.pack(port, number)
        proof = blake2s(start, key=self._secret, digest_size=_HASH).digest()
        return (start + proof).ljust(PROBE_BYTES, b"\0")

    def sent_by(self, frame: bytes) -> int | None:
        """Return the number of the port that sent this frame as a probe, or ``None`` if it is none of ours or old."""
        if len(frame) < _HASH_AT + _HASH or frame[12:_BODY_AT] != PROBE_ETHERTYPE + _MAGIC:
            return None
        port, number = _BODY.unpack_from(frame, _BODY_AT)
        if number not in (self._round, (self._round - 1) & 0xFFFFFFFF):
            return None
        own = self._frame(port, number)
        return port if frame[: len(own)] == own else None
