"""Ask a broker once whether it takes us: one MQTT 3.1.1 CONNECT, by hand, and its answer in words.

Used before anything is started (so that a wrong password is one clear line, not the same complaint from five
processes) and to see that a broker we started serves: an open port alone does not say whose it is.
Spec: MQTT 3.1.1, 3.1 and 3.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from typing import Final

from pvnet.core.errors import ConfigError, UnreachableError
from pvnet.transport.uri import BrokerUrl

_CLEAN_SESSION: Final = 0x02
_PASSWORD: Final = 0x40
_USERNAME: Final = 0x80
_REASONS: Final = {
    1: "does not speak MQTT 3.1.1",
    2: "refuses the client identifier",
    3: "says that it is unavailable",
}
_CREDENTIALS: Final = frozenset({4, 5})


def _field(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def connect_packet(url: BrokerUrl, client_id: str) -> bytes:
    """Build a CONNECT packet: clean session, no will, keep-alive 10 s."""
    flags, payload = _CLEAN_SESSION, _field(client_id.encode())
    if url.username is not None:
        flags |= _USERNAME
        payload += _field(url.username.encode())
        if url.password is not None:
            flags |= _PASSWORD
            payload += _field(url.password.encode())
    body = _field(b"MQTT") + bytes([4, flags]) + struct.pack(">H", 10) + payload
    length, remaining = b"", len(body)
    while True:
        remaining, low = divmod(remaining, 128)
        length += bytes([low | (0x80 if remaining else 0)])
        if not remaining:
            return b"\x10" + length + body


async def probe(url: BrokerUrl, *, timeout: float = 5.0) -> None:
    """Connect and leave.

    :raises ConfigError: the broker refuses our user name or password, or the CA file is no such thing.
    :raises UnreachableError: no connection, no TLS, or no MQTT broker at the other end.
    """
    where = f"broker {url.redacted()}"
    try:
        async with asyncio.timeout(timeout):
            answer = await _ask(url)
    except TimeoutError:
        raise UnreachableError(f"{where}: no answer within {timeout:g} s") from None
    except ssl.SSLCertVerificationError as error:
        hint = "" if url.ca_file else " (a private CA? add ?ca_file=FILE)"
        raise UnreachableError(f"{where}: its certificate is not trusted: {error.verify_message}{hint}") from None
    except ssl.SSLError as error:
        raise UnreachableError(f"{where}: TLS failed ({error.reason or error}); is this a TLS port?") from None
    except socket.gaierror:
        raise UnreachableError(f"{where}: host name not known") from None
    except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError):
        hint = " (not a TLS port? then mqtt://)" if url.tls else " (a TLS port? then mqtts://)"
        raise UnreachableError(f"{where}: closed the connection instead of answering{hint}") from None
    except OSError as error:
        text = os.strerror(error.errno).lower() if error.errno else str(error)
        raise UnreachableError(f"{where}: {text}") from None
    _judge(where, url, answer)


async def _ask(url: BrokerUrl) -> bytes:
    tls = None
    if url.tls:
        try:
            tls = await asyncio.to_thread(ssl.create_default_context, cafile=url.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"CA file {url.ca_file}: expected PEM certificates ({error})") from None
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=tls)
    try:
        writer.write(connect_packet(url, f"pvnet-probe-{os.getpid()}"))
        answer = await reader.readexactly(4)
        writer.write(b"\xe0\x00")  # DISCONNECT
        return answer
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()


def _judge(where: str, url: BrokerUrl, answer: bytes) -> None:
    if answer[:2] != b"\x20\x02":
        raise UnreachableError(f"{where}: something answers there, but it is not an MQTT broker")
    code = answer[3]
    if code in _CREDENTIALS:
        who = f"user {url.username!r}" if url.username else "a client without user name"
        raise ConfigError(f"{where} refuses {who}: wrong user name or password")
    if code:
        raise UnreachableError(f"{where} {_REASONS.get(code, f'refuses us with code {code}')}")
