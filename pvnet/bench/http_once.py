"""HTTP as pypowervm speaks it: a new connection, with a new TLS handshake, for every single request.

Only what a measurement needs: one request, one answer with a ``Content-Length`` (or none to read), and an error that
says what came instead.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final

_BODY_MAX: Final = 16 << 20
_BODILESS: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class AnswerError(ConnectionError):
    """The answer ended early, or is no HTTP that this client reads."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    async def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"", *, timeout: float = 30.0
    ) -> Answer:
        """Send one request over a connection of its own.

        :raises OSError: no connection, no answer within ``timeout`` seconds (TimeoutError), or none that can be read.
        """
        async with asyncio.timeout(timeout):
            name = self.host if self.tls is not None else None
            reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls, server_hostname=name)
            try:
                lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Accept-Encoding: identity"]
                lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
                if body or method in {"PUT", "POST"}:
                    lines.append(f"Content-Length: {len(body)}")
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                return await _read(reader)
            finally:
                writer.transport.abort()  # as a client that has what it wanted; nothing waits for a polite end


async def _read(reader: asyncio.StreamReader) -> Answer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        version, _, rest = first.partition(" ")
        status = int(rest[:3])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if not version.startswith("HTTP/1."):
            raise AnswerError(f"an answer in {version!r}; expected HTTP/1.1")
        if status in _BODILESS:
            return Answer(status, headers, b"")
        length = int(headers["content-length"])
        if not 0 <= length <= _BODY_MAX:
            raise AnswerError(f"an answer of {length} bytes; expected at most {_BODY_MAX}")
        return Answer(status, headers, await reader.readexactly(length))
    except asyncio.IncompleteReadError as error:
        raise AnswerError(f"the connection ended after {len(error.partial)} bytes of an answer") from None
    except asyncio.LimitOverrunError:
        raise AnswerError("the head of the answer is longer than 64 KiB") from None
    except (ValueError, KeyError) as error:
        raise AnswerError(f"an answer that is no HTTP with a Content-Length: {error}") from None
