"""Requests that fail, and the document that answers them: people see its message, programs its status and reason."""

from __future__ import annotations

from typing import Final

from pvnet.novalink.atom import Resource, entry
from pvnet.novalink.markup import Element
from pvnet.novalink.names import HTTP_ERROR, WEB_NS, web_type
from pvnet.runtime.topology_system import made_uuid

_TEXT_MAX: Final = 2000


class RequestError(Exception):
    """The request cannot be done as it stands; HTTP status, a reason for programs, a message for people."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


def http_error(status: int, uri: str, reason: str, message: str, when: float = 0.0) -> bytes:
    """Return an Atom entry with HttpErrorResponse.

    ``uri`` is path and query of the request, ``reason`` a short phrase that is the same for every error of its kind,
    ``message`` what is shown to a person.
    """
    fields = (("HTTPStatus", str(status)), ("RequestURI", uri), ("ReasonCode", reason), ("Message", message))
    content = Element(
        WEB_NS,
        HTTP_ERROR,
        {"schemaVersion": "V1_0"},
        children=(
            Element(WEB_NS, "Metadata", children=(Element(WEB_NS, "Atom"),)),
            *(Element(WEB_NS, name, text=value[:_TEXT_MAX]) for name, value in fields),
        ),
    )
    uuid = made_uuid("error", str(status), uri[:_TEXT_MAX])
    return entry(Resource(HTTP_ERROR, uuid, "", "", content, media_type=web_type(HTTP_ERROR)), "", when)
