"""The hot path of the MQTT transport: PUBLISH and PUBACK on an aiomqtt connection, read and written by ourselves.

aiomqtt makes the connection, subscribes, keeps it alive and notices its end.  Once it stands, :class:`Wire` takes the
socket over, because a message that is answered takes aiomqtt and paho five turns of the event loop, eight system calls
and two dozen objects.  Here it is one turn, one ``recv`` and one ``send``:

* readable: read all there is, hand the messages on, then write in one go the acknowledgements and what the receivers
  of the messages have answered meanwhile;
* a message sent at any other time is written at once; more of the same turn of the loop follow together at its end;
* what the kernel does not take waits for the socket to become writable, bounded: beyond it frames are lost, as a
  transport may (the link repeats them).

Every other packet goes through paho: it gets a stand-in for the socket whose ``recv`` returns those packets one by one
and whose ``send`` fills the same output buffer.  Packet identifiers do not clash: ours have the top bit set, paho
counts its few from 1.  Session state (repeating a PUBLISH after a reconnection) is not needed: sessions are clean.

This module is the only one that touches what aiomqtt and paho do not document: ``aiomqtt.Client._client`` (the paho
client, of which otherwise the documented callbacks, ``loop_read`` and ``loop_write`` are used),
``aiomqtt.Client._disconnected`` and ``paho.Client._sock`` (the socket, to replace it).

Packets, all numbers big-endian.  Spec: MQTT 3.1.1 sections 2.2, 3.3, 3.4::

    PUBLISH  0x30|qos<<1|retain  length(1..4, 7 bits each, low first)  u16 topic length, topic, u16 id, payload
    PUBACK   0x40 0x02           u16 id
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import aiomqtt
import structlog

_CHUNK: Final = 256 * 1024
_ROUNDS: Final = 16
_PUBLISH: Final = 3
_PUBACK: Final = 4
_FIRST_ID: Final = 0x8000
_LAST_ID: Final = 0xFFFF
MAX_UNACKNOWLEDGED: Final = 30_000
"""PUBLISH packets that the broker has not acknowledged; fewer than there are identifiers."""
MAX_UNSENT_BYTES: Final = 32 * 1024 * 1024
_NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _StandIn:
    """What paho takes for its socket."""

    def __init__(self, sock: Any, out: bytearray) -> None:
        self._sock = sock
        self._out = out
        self._packet = b""
        self.ended = False

    def give(self, packet: bytes) -> None:
        """Have the next calls of :meth:`recv` return ``packet``."""
        self._packet += packet

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes; b"" at the end of the connection.

        Raises:
            BlockingIOError: there is nothing now.
        """
        if not self._packet and not self.ended:
            raise BlockingIOError
        data, self._packet = self._packet[:size], self._packet[size:]
        return data

    def pending(self) -> int:
        """Number of bytes that wait."""
        return len(self._packet)

    def send(self, data: bytes | bytearray) -> int:
        """Take all of ``data``; the wire sends it."""
        self._out += data
        return len(data)

    def close(self) -> None:
        """Send what is left if it goes at once (the DISCONNECT), and close."""
        with contextlib.suppress(OSError, ValueError):
            self._sock.send(self._out)
        self._out.clear()
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Wire:
    """The socket of one established connection; ``receive(topic, payload)`` gets every message."""

    def __init__(self, client: aiomqtt.Client, receive: Callable[[bytes, bytes], None]) -> None:
        self.unacknowledged = 0
        self.overflowed = 0
        self._client = client
        self._paho: Any = client._client
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger()
        self._rest = b""  # the incomplete packet at the end of what was read
        self._out = bytearray()
        self._inbox: list[tuple[bytes, bytes]] = []
        self._last_id = _LAST_ID
        self._held = False  # more is in the making in this turn of the loop: do not write yet
        self._written = False  # something was written in this turn of the loop
        self._waiting = False  # for the socket to become writable
        sock: Any = self._paho.socket()
        if sock is None:
            raise aiomqtt.MqttError("connection lost at once")
        self._sock: socket.socket = sock
        self._fd: int = sock.fileno()
        self._stand_in = _StandIn(self._sock, self._out)
        self._take_over()

    def _take_over(self) -> None:
        paho = self._paho
        paho._sock = self._stand_in
        paho.on_message = self._paho_message
        paho.on_socket_register_write = lambda *_: self._wants_write()
        paho.on_socket_unregister_write = None
        self._closed_by_aiomqtt = paho.on_socket_close
        paho.on_socket_close = self._closing
        self._loop.remove_writer(self._fd)
        self._loop.add_reader(self._fd, self._readable)
        self._loop.call_soon(self._readable)  # what TLS has read already is not announced again
        self._flush()

    @property
    def open(self) -> bool:
        """Whether the connection still stands."""
        return self._paho.socket() is self._stand_in

    def publish(self, topic: bytes, payload: bytes) -> None:
        """Publish with QoS 1, without waiting; lost when the connection breaks or the broker does not take it."""
        out = self._out
        if self.unacknowledged >= MAX_UNACKNOWLEDGED or len(out) >= MAX_UNSENT_BYTES or not self.open:
            self.overflowed += 1
            return
        number = self._last_id = _FIRST_ID if self._last_id == _LAST_ID else self._last_id + 1
        length = 4 + len(topic) + len(payload)
        out.append(0x32)
        while length > 127:
            out.append(length & 127 | 128)
            length >>= 7
        out.append(length)
        out += len(topic).to_bytes(2, "big")
        out += topic
        out += number.to_bytes(2, "big")
        out += payload
        self.unacknowledged += 1
        if not self._held:
            self._wants_write()

    def retain(self, topic: str, payload: bytes) -> None:
        """Publish a retained message with QoS 1, without waiting."""
        self._paho.publish(topic, payload, 1, True)

    def break_off(self) -> None:
        """Break the connection without a DISCONNECT, as a crash does."""
        hang_up(self._client)
        self._loop.call_soon(self._ended)

    def _closing(self, client: Any, userdata: Any, sock: Any) -> None:
        """The socket is about to be closed: nobody may wait for it any more."""
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)
        self._closed_by_aiomqtt(client, userdata, sock)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        if not self.open:
            return
        self._held = True
        try:
            rounds = _ROUNDS
            while rounds and self._read():
                rounds -= 1
            if not rounds:
                self._loop.call_soon(self._readable)
            self._hand_on()
        finally:
            self._held = False
            self._write()

    def _read(self) -> bool:
        """Read and take apart once; whether there may be more.

        Asked until there is nothing: TLS may have more than the socket shows, and libuv announces a connection that
        was reset only once, even if there was something to read before the error.
        """
        try:
            data = self._sock.recv(_CHUNK)
        except _NOT_NOW:
            return False
        except OSError as error:
            self._log.debug("mqtt_read_failed", error=str(error))
            data = b""
        if not data:
            self._ended()
            return False
        if not self._take_apart(self._rest + data if self._rest else data):
            self._log.warning("mqtt_malformed_packet")
            self.break_off()
            return False
        return True

    def _ended(self) -> None:
        """Let paho see the end of the connection; it closes the socket and tells aiomqtt."""
        self._stand_in.ended = True
        self._paho.loop_read()

    def _take_apart(self, data: bytes) -> bool:
        """Consume the complete packets and keep the rest; whether all were well-formed."""
        at, have = 0, len(data)
        while have - at >= 2:
            body, length, shift = at + 1, 0, 0
            while body < have:
                byte = data[body]
                body += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift > 21:
                    break
            if data[body - 1] >= 128:
                if shift > 21:
                    return False
                break
            end = body + length
            if end > have:
                break
            if not self._packet(data, at, body, end):
                return False
            at = end
        self._rest = data[at:]
        return True

    def _packet(self, data: bytes, start: int, body: int, end: int) -> bool:
        first = data[start]
        kind, qos = first >> 4, first >> 1 & 3
        if kind == _PUBLISH and qos < 2:
            at = body + 2
            topic = at + (data[body] << 8 | data[body + 1]) if at <= end else end + 1
            payload = topic + 2 * qos
            if payload > end:
                return False
            if qos:
                self._out += b"\x40\x02"
                self._out += data[topic:payload]
            self._inbox.append((data[at:topic], data[payload:end]))
        elif kind == _PUBACK and end - body == 2 and data[body] >= _FIRST_ID >> 8:
            self.unacknowledged -= 1
        else:
            self._stand_in.give(data[start:end])
            while self.open and self._stand_in.pending():
                self._paho.loop_read()
        return True

    def _paho_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        with contextlib.suppress(UnicodeDecodeError):  # only a broker that sends QoS 2 where we asked for 1
            self._inbox.append((message.topic.encode(), bytes(message.payload)))

    def _hand_on(self) -> None:
        while self._inbox:
            inbox, self._inbox = self._inbox, []
            for topic, payload in inbox:
                try:
                    self._receive(topic, payload)
                except Exception as error:  # noqa: BLE001 - one message must not cost the others, or the connection
                    self._log.error("message_failed", topic=topic.decode(errors="replace"), exc_info=error)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _wants_write(self) -> None:
        if self._held or self._waiting:
            return
        if self._written:
            self._held = True  # until _turn_ends
        else:
            self._written = True
            self._loop.call_soon(self._turn_ends)
            self._write()

    def _turn_ends(self) -> None:
        self._written = False
        if self._held:
            self._held = False
            self._write()

    def _write(self) -> None:
        if self._paho.want_write():
            self._paho.loop_write()  # into the stand-in
        self._flush()

    def _flush(self) -> None:
        out = self._out
        try:
            while out:
                del out[: self._sock.send(out)]
        except _NOT_NOW:
            if not self._waiting:
                self._waiting = True
                self._loop.add_writer(self._fd, self._write)
            return
        except OSError as error:
            self._log.debug("mqtt_write_failed", error=str(error))
            out.clear()
            self._loop.call_soon(self._ended)  # not from here: paho may be the caller
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)


def hang_up(client: aiomqtt.Client) -> None:
    """Break the connection of a client, if it has one; its reader notices."""
    sock: Any = client._client.socket()
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def give_up(client: aiomqtt.Client) -> None:
    """End a connection that is being made, perhaps in another thread still."""

    def refuse(_client: Any, _userdata: Any, sock: Any) -> None:
        sock.close()
        raise ConnectionAbortedError("not wanted any more")

    client._client.on_socket_open = refuse
    hang_up(client)
    mourn(client)


def mourn(client: aiomqtt.Client) -> None:
    """Take notice of why the connection ended, or asyncio complains that nobody did."""
    ended = getattr(client, "_disconnected", None)
    if ended is not None and ended.done() and not ended.cancelled():
        ended.exception()


def limit_connecting(client: aiomqtt.Client, seconds: float) -> None:
    """Give up on a host that does not even refuse the TCP connection after ``seconds``."""
    client._client.connect_timeout = seconds


def closing_of(client: aiomqtt.Client) -> asyncio.Future[None]:
    """Return a future that is done when the client's socket is closed."""
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[None] = loop.create_future()
    paho: Any = client._client
    inner = paho.on_socket_close

    def done() -> None:
        if not closed.done():
            closed.set_result(None)

    def closing(*arguments: Any) -> None:
        inner(*arguments)
        if not loop.is_closed():
            loop.call_soon_threadsafe(done)  # a failed TLS handshake closes in the connecting thread

    paho.on_socket_close = closing
    return closed
