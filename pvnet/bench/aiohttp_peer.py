"""The peer of the NovaLink service: a bare aiohttp handler behind the same kind of certificate, with as long an answer.

``python -m pvnet.bench.aiohttp_peer`` is told in one line of JSON which certificate and how many bytes, and says its
port.  It looks at the session's token and at the ETag, and does nothing else: what the service does more is what the
comparison shows.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from typing import Final

from aiohttp import web

TOKEN: Final = "t" * 43
ETAG: Final = "1"


async def serve(told: str) -> None:
    """Answer until killed."""
    options = json.loads(told)
    body = bytes(options["size"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options["cert"], options["key"])

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("X-API-Session") != TOKEN:
            return web.Response(status=401)
        headers = {"ETag": ETAG, "X-MC-Type": "PVM"}
        if request.headers.get("If-None-Match") == ETAG:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers, content_type="application/atom+xml", charset="UTF-8")

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.SockSite(runner, listener, ssl_context=tls).start()
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(sys.stdin.readline()))
