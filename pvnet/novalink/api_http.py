"""Requests and answers of the REST service, apart from the sockets that they come and go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from pvnet.core.errors import PvnetError
from pvnet.novalink.names import ATOM_TYPE

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
JSON_TYPE: Final = "application/json; charset=UTF-8"
XML_TYPE: Final = f"{ATOM_TYPE}; charset=UTF-8"


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body has arrived."""

    method: str
    path: str
    """As it came: quoted, without the query."""
    query: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Names in lower case."""
    body: bytes = b""
    base: str = ""
    """Scheme, host and port as the client named them: what links begin with."""
    target: str = ""
    """Path and query as they came, for error documents."""
    place: str = ""
    """Address of the client."""
    local: bool = False
    """Whether it came by HTTP from this machine, where a file may tell who it is."""
    uid: int | None = None
    """User of the connecting program, where that can be known."""
    gone: Callable[[], bool] = _never
    """Whether the client has hung up."""


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent back."""

    status: int
    body: bytes = b""
    content_type: str = XML_TYPE
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)


class ApiError(PvnetError):
    """A request that is answered with an error document."""

    def __init__(self, status: int, message: str, *, reason: str = "", retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = int(status)  # an HTTPStatus is written in another way
        self.message = message
        self.reason = reason or HTTPStatus(status).phrase
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}


class NoPlatformError(PvnetError):
    """There is no session to the platform."""
