"""HTTP of the NovaLink service: from requests of aiohttp to ours and back, each with a line in the audit log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from aiohttp import web

from pvnet.novalink.api_http import XML_TYPE, ApiError, Request, Response
from pvnet.novalink.errors import http_error
from pvnet_services.novalink_keys import uid_of
from pvnet_services.novalink_listen import BODY_MAX, Connection

_BODY_S: Final = 10.0
_SHOWN: Final = 200
_MEMENTO_MAX: Final = 64
_BODY_METHODS: Final = frozenset({"PUT", "POST"})
_TYPES: Final = ("application/vnd.ibm.powervm.", "application/atom+xml", "application/xml", "text/xml")

Answer = Callable[[Request], Awaitable[tuple[Response, Mapping[str, object]]]]


class Front:
    """Makes :class:`Request` of what comes in, and has ``answer`` answer it."""

    def __init__(self, answer: Answer, *, mode: str) -> None:
        self._answer = answer
        self._kind = {"X-MC-Type": mode.upper(), "Server": "pvnet"}
        self._log = structlog.get_logger().bind(node="novalink")
        self.requests = 0

    async def handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        started = time.perf_counter()
        self.requests += 1
        notes: Mapping[str, object] = {}
        try:
            request = await self._request(incoming)
            response, notes = await self._answer(request)
        except ApiError as error:
            response = self._error(incoming, error)
        headers = {**self._kind, **response.headers}
        if response.body:
            headers["Content-Type"] = response.content_type
        made = web.Response(status=response.status, body=response.body or None, headers=headers)
        if response.status == 413 or not incoming.content.is_eof():
            made.force_close()  # what is still to come of the body is not read
        self._audit(incoming, response.status, started, notes)
        return made

    def error_answer(
        self, incoming: web.BaseRequest, status: int, exc: BaseException | None, message: str | None
    ) -> web.StreamResponse:
        """Answer what aiohttp refuses, and what nobody foresaw."""
        if status >= 500:
            self._log.error("request_failed", method=incoming.method, path=incoming.raw_path[:_SHOWN], exc_info=exc)
            text = "The service failed at this request; its log says why."
        else:
            text = " ".join((message or str(exc or "") or "not a request of HTTP").split())[:_SHOWN]
        response = self._error(incoming, ApiError(status, text))
        self._audit(incoming, status, time.perf_counter(), {})
        headers = {**self._kind, "Content-Type": response.content_type}
        made = web.Response(status=status, body=response.body, headers=headers)
        made.force_close()
        return made

    async def _request(self, incoming: web.BaseRequest) -> Request:
        protocol = incoming.protocol
        assert isinstance(protocol, Connection), "the server makes no others"
        entry = protocol.entry
        path, _, _ = incoming.raw_path.partition("?")
        scheme = "https" if entry.secure else "http"
        host = incoming.headers.get("Host", "")
        local = incoming.transport.get_extra_info("sockname") if incoming.transport is not None else None
        if not host or any(c in host for c in "<>\"' "):
            host = f"{local[0]}:{local[1]}" if local else "localhost"
        body = await self._body(incoming) if incoming.can_read_body else b""
        here = not entry.secure and entry.address[0].startswith("127.")
        logs_on = incoming.method == "PUT" and path.endswith("/Logon")
        return Request(
            method=incoming.method,
            path=path,
            query=dict(incoming.query),
            headers={name.lower(): value for name, value in incoming.headers.items()},
            body=body,
            base=f"{scheme}://{host}",
            target=incoming.raw_path[:2000],
            place=entry.address[0],
            local=here,
            uid=await asyncio.to_thread(uid_of, entry.address, local[:2]) if here and local and logs_on else None,
            gone=lambda: incoming.transport is None or incoming.transport.is_closing(),
        )

    async def _body(self, incoming: web.BaseRequest) -> bytes:
        if (incoming.content_length or 0) > BODY_MAX:
            raise ApiError(413, f"The body has {incoming.content_length} bytes; expected at most {BODY_MAX}.")
        if "Content-Encoding" in incoming.headers:
            raise ApiError(415, "Content-Encoding: expected a body that is not compressed.")
        kind = incoming.headers.get("Content-Type", "")
        if incoming.method in _BODY_METHODS and not kind.lower().startswith(_TYPES):
            what = kind[:_SHOWN] or "nothing"
            raise ApiError(415, f"Content-Type: {what}; expected application/vnd.ibm.powervm.uom+xml; type=...")
        if incoming.headers.get("Expect", "").lower() == "100-continue" and incoming.transport is not None:
            incoming.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(_BODY_S):
                return await incoming.read()
        except TimeoutError:
            raise ApiError(408, f"The body did not arrive within {_BODY_S:g} s.") from None
        except web.HTTPRequestEntityTooLarge:
            raise ApiError(413, f"The body has more than {BODY_MAX} bytes.") from None
        except web.RequestPayloadError as error:
            raise ApiError(400, f"The body is not what its headers say: {str(error)[:_SHOWN]}") from None

    def _error(self, incoming: web.BaseRequest, error: ApiError) -> Response:
        body = http_error(error.status, incoming.raw_path, error.reason, error.message, time.time())
        return Response(error.status, body, XML_TYPE, error.headers)

    def _audit(self, incoming: web.BaseRequest, status: int, started: float, notes: Mapping[str, object]) -> None:
        said = {"memento": incoming.headers.get("X-Audit-Memento", "")[:_MEMENTO_MAX], **notes}
        self._log.info(
            "request",
            method=_plain(incoming.method),
            path=_plain(incoming.raw_path[:_SHOWN]),
            status=status,
            ms=round((time.perf_counter() - started) * 1000, 1),
            **{name: _plain(value) if isinstance(value, str) else value for name, value in said.items()},
        )


def _plain(text: str) -> str:
    """Return what a client has sent as it can stand in a log: nothing that moves a cursor or cannot be encoded."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
