"""Copies of a node's messages for a recorder, which never hold the node up.

A recorder listens at a unix socket (SOCK_SEQPACKET) and asks nodes by the management command ``Tap`` to connect.  From
then on the node sends one packet per record, and never waits: what the socket does not take at once is dropped, and
counted in the next packet that goes through.

Layout of a packet, big-endian::

    0 direction u8 (1 in, 2 out) | 1 link type u8 | 2 flags u8 = 0 | 3 length n of the channel u8
    4 dropped since the last packet u32
    8 time, ns since 1970 u64
    16 length of the record before it was cut u32 | 20 length m of the other node's name u8 | 21 zero 3
    24 channel, n bytes; the other node's name, m bytes; the record

The recorder knows whose socket it is by the first packet of a connection, whose link type is 0 and whose record is the
node's name.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pvnet.capture.model import LINKTYPE_ENVELOPE
from pvnet.core.errors import ConfigError, WireError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.transport.envelope import CHANNEL_OF_BODY

HEAD: Final = struct.Struct(">BBBBIQIB3x")
HELLO: Final = 0
"""Link type of the packet that says who it is."""
IN: Final = 1
OUT: Final = 2
BUFFER_BYTES: Final = 4 << 20
"""Asked for as the socket's buffer; the kernel may give less."""
_GONE: Final = frozenset({errno.EBADF, errno.ENOTCONN, errno.ENOTSOCK})
PACKET_MAX: Final = 192 << 10


@dataclass(frozen=True, slots=True)
class TapRecord:
    """One packet, decoded."""

    direction: int
    link_type: int
    dropped: int
    time_ns: int
    original_bytes: int
    channel: str
    other: str
    data: bytes


def encode(
    direction: int, link_type: int, dropped: int, time_ns: int, channel: bytes, other: bytes, data: bytes, original: int
) -> bytes:
    """Return a packet."""
    dropped = min(dropped, 0xFFFFFFFF)
    head = HEAD.pack(direction, link_type, 0, len(channel), dropped, time_ns, original, len(other))
    return b"".join((head, channel, other, data))


def decode(packet: bytes) -> TapRecord:
    """Decode a packet.

    Raises:
        WireError: it is none.
    """
    if len(packet) < HEAD.size:
        raise WireError(f"tap packet of {len(packet)} bytes", expected=f"at least {HEAD.size}")
    direction, link_type, flags, channel, dropped, time_ns, original, other = HEAD.unpack_from(packet)
    start = HEAD.size + channel
    if flags or start + other > len(packet):
        raise WireError("tap packet contradicts itself", offset=2)
    return TapRecord(
        direction,
        link_type,
        dropped,
        time_ns,
        original,
        packet[HEAD.size : start].decode(errors="replace"),
        packet[start : start + other].decode(errors="replace"),
        packet[start + other :],
    )


class MessageTap:
    """A node's end.

    :param ended: told once when the recorder has gone.
    """

    def __init__(self, node: str, path: str, ended: Callable[[], None]) -> None:
        """Connect.

        Raises:
            ConfigError: nobody listens there.
        """
        self.node = node
        self.dropped = 0
        self.sent = 0
        self._pending = 0
        self._ended = ended
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            self._socket.setblocking(False)  # EAGAIN at once if whoever listens there takes nobody
            self._socket.connect(path)
            self._socket.send(encode(OUT, HELLO, 0, time.time_ns(), b"", b"", node.encode(), len(node)))
        except (OSError, ValueError) as error:
            self._socket.close()
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"recorder at {path[:120]!r}: {text}") from None

    def envelope(self, direction: str, envelope: Envelope) -> None:
        """Send a copy of a message; a listener of ``taps.Taps``."""
        is_in = direction == "in"
        kind = envelope.WhichOneof("body")
        channel = CHANNEL_OF_BODY.get(kind, None) if kind is not None else None
        other = envelope.source if is_in else envelope.destination
        name = b"state" if channel is None else channel.value.encode()
        self.record(IN if is_in else OUT, LINKTYPE_ENVELOPE, name, other.encode(), envelope.SerializeToString())

    def record(
        self, direction: int, link_type: int, channel: bytes, other: bytes, data: bytes, original: int = 0
    ) -> None:
        """Send a record, or count it as dropped."""
        packet = encode(
            direction, link_type, self._pending, time.time_ns(), channel, other, data, original or len(data)
        )
        try:
            self._socket.send(packet)
        except (BrokenPipeError, ConnectionError):
            self.close()
            self._ended()
        except OSError as error:  # no room now (EAGAIN, ENOBUFS), or a packet that is too long for the socket
            if error.errno in _GONE:
                self.close()
                self._ended()
                return
            self._pending += 1
            self.dropped += 1
        else:
            self._pending = 0
            self.sent += 1

    def close(self) -> None:
        """Send nothing more but how many were dropped last; idempotent."""
        if self._pending and self._socket.fileno() >= 0:
            with contextlib.suppress(OSError):
                name = self.node.encode()
                self._socket.send(encode(OUT, HELLO, self._pending, time.time_ns(), b"", b"", name, len(name)))
        self._socket.close()
