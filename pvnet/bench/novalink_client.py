"""A session at a NovaLink service, as management software has one: log on, list, refresh by ETag, log off."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from pvnet.bench.http_once import Answer, AnswerError, Server

PARTITIONS: Final = "/rest/api/uom/LogicalPartition?group=None"
_ATOM: Final = {"Accept": "application/atom+xml", "X-Audit-Memento": "bench"}
_WEB: Final = "application/vnd.ibm.powervm.web+xml; type="
_LOGON: Final = """<LogonRequest xmlns="http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/" \
schemaVersion="V1_0"><UserID>{user}</UserID><Password>{password}</Password></LogonRequest>"""
_TOKEN: Final = re.compile(rb"X-API-Session[^>]*>([^<]+)<")
_LINK: Final = re.compile(rb'<link rel="SELF" href="https?://[^/"]+(/[^"?]*/LogicalPartition/[0-9A-Fa-f-]{36})["?]')


def server_of(endpoint: dict[str, Any]) -> Server:
    """Return where the HTTPS of a lab's endpoint is; its CA is trusted, nothing else."""
    url = urlsplit(endpoint["url"])
    tls = ssl.create_default_context(cafile=endpoint["ca"])
    return Server("localhost" if url.hostname == "127.0.0.1" else str(url.hostname), url.port or 443, tls)


class RestSession:
    """Requests with a token."""

    def __init__(self, server: Server, token: str) -> None:
        self.server = server
        self._headers = {**_ATOM, "X-API-Session": token}

    @classmethod
    async def log_on(cls, server: Server, user: str, password: str, *, timeout: float = 60.0) -> Self:
        """Log on by password.

        :raises OSError: see :meth:`Server.ask`; or the answer has no token.
        """
        body = _LOGON.format(user=escape(user), password=escape(password)).encode()
        headers = {"Accept": _WEB + "LogonResponse", "Content-Type": _WEB + "LogonRequest"}
        answer = await server.ask("PUT", "/rest/api/web/Logon", headers, body, timeout=timeout)
        found = _TOKEN.search(answer.body)
        if answer.status != 200 or found is None:
            raise AnswerError(f"log-on: status {answer.status}, {answer.body[:200]!r}")
        return cls(server, found[1].decode().strip())

    @classmethod
    def at(cls, endpoint: dict[str, Any]) -> Awaitable[Self]:
        """Log on at a lab's endpoint (as ``pvnet up --json`` shows it) with its own user."""
        password = Path(endpoint["password_file"]).read_text().strip()
        return cls.log_on(server_of(endpoint), endpoint["user"], password)

    async def get(self, path: str, etag: str | None = None) -> Answer:
        """GET, if it is not ``etag`` any more."""
        headers = self._headers if etag is None else {**self._headers, "If-None-Match": etag}
        return await self.server.ask("GET", path, headers)

    async def partitions(self) -> list[str]:
        """Return the paths of all partitions.

        :raises OSError: see :meth:`Server.ask`; or it is no list.
        """
        answer = await self.get(PARTITIONS)
        found = sorted({link.decode() for link in _LINK.findall(answer.body)})
        if answer.status != 200 or not found:
            raise AnswerError(f"list of partitions: status {answer.status}, {answer.body[:200]!r}")
        return found

    async def log_off(self) -> None:
        """End the session."""
        await self.server.ask("DELETE", "/rest/api/web/Logon", self._headers)
