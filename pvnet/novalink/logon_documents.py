"""The answer to a log-on."""

from __future__ import annotations

from typing import Final

from pvnet.novalink.markup import Element, serialize
from pvnet.novalink.names import LOGON_RESPONSE, WEB_NS

_SCHEMA: Final = "V1_0"


def logon_response(*, token: str | None = None, path: str | None = None) -> bytes:
    """Return a LogonResponse with the token itself, or with the path of the file that has it."""
    if (token is None) == (path is None):
        raise ValueError("either a token or a path")
    name, value = ("X-API-Session", token) if token is not None else ("X-API-SessionFile", path)
    metadata = Element(WEB_NS, "Metadata", children=(Element(WEB_NS, "Atom"),))
    answer = Element(WEB_NS, name, text=value or "")
    return serialize(Element(WEB_NS, LOGON_RESPONSE, {"schemaVersion": _SCHEMA}, children=(metadata, answer)))
