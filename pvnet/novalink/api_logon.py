"""Log on and off, and the queues of events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from pvnet.novalink.api import Api, Call, Route
from pvnet.novalink.api_http import XML_TYPE, ApiError, Response
from pvnet.novalink.event_documents import event_resource
from pvnet.novalink.logon_documents import logon_response
from pvnet.novalink.logon_requests import logon_request
from pvnet.novalink.names import EVENT, UOM_ROOT, WEB_ROOT
from pvnet.novalink.sessions import Failures, LogOn

LOGON: Final = f"{WEB_ROOT}/Logon"
EVENT_WAIT_S: Final = 10.0
"""How long a poll waits for the next event."""
_APPLICATION_MAX: Final = 256


class Keys(Protocol):
    """Passwords and token files: what needs threads, files and chance."""

    async def check(self, user: str, password: str) -> bool:
        """Return whether this is the user's password; ApiError 503: too many ask at once."""

    def token(self) -> str:
        """Return a new token."""

    def write(self, token: str, uid: int | None) -> str:
        """Put a token into a file that only the connecting program's user can read; its path, or ApiError."""

    def forget(self, ended: list[LogOn]) -> None:
        """Remove the files of log-ons that have ended."""


def logon_routes(keys: Keys, pause: Callable[[float], Awaitable[None]]) -> tuple[Route, ...]:
    """Return the routes; ``pause`` waits so many seconds before a failure is answered."""
    failures = Failures()

    async def log_on(api: Api, call: Call) -> Response:
        asked = logon_request(call.request.body)
        call.note(user=asked.user[:64])
        if asked.password is None:
            if not call.request.local:
                raise ApiError(403, "Log-on by a file is for programs of this machine, by HTTP. Send a Password.")
            token = keys.token()
            path = keys.write(token, call.request.uid)
            keys.forget(api.log_ons.add(token, asked.user, api.clock(), file=path))
            return _logged_on(logon_response(path=path))
        if not await keys.check(asked.user, asked.password):
            await pause(failures.failed(call.request.place, api.clock()))
            raise ApiError(401, "The user or the password is wrong.", reason="Log-on failed")
        failures.succeeded(call.request.place)
        token = keys.token()
        keys.forget(api.log_ons.add(token, asked.user, api.clock()))
        return _logged_on(logon_response(token=token))

    async def log_off(api: Api, call: Call) -> Response:
        assert call.log_on is not None, "the route is not open"
        if api.log_ons.remove(call.log_on):
            keys.forget([call.log_on])
        api.ring()  # who waits for events with this log-on need not wait on
        return Response(204)

    return (
        Route("PUT", LOGON, log_on, open=True),
        Route("DELETE", LOGON, log_off),
        Route("GET", f"{UOM_ROOT}/{EVENT}", _events),
    )


def _logged_on(document: bytes) -> Response:
    return Response(200, document, XML_TYPE, {"Cache-Control": "no-store"})


async def _events(api: Api, call: Call) -> Response:
    assert call.log_on is not None, "the route is not open"
    application = call.request.query.get("QUEUE_APPLICATIONID", "")
    method = call.request.query.get("QUEUE_CLIENTKEY_METHOD", "USE_APPLICATIONID")
    if method != "USE_APPLICATIONID" or not 1 <= len(application) <= _APPLICATION_MAX:
        text = (
            f"expected QUEUE_CLIENTKEY_METHOD=USE_APPLICATIONID and a QUEUE_APPLICATIONID of at most {_APPLICATION_MAX}"
        )
        raise ApiError(400, f"Event: {text} characters.")
    end, polls_ended = api.clock() + EVENT_WAIT_S, api.polls_ended
    while True:
        if call.request.gone():
            return Response(204)  # nobody is there any more: the events stay for who comes next
        found = api.events.poll(call.user, application, api.clock())
        left = end - api.clock()
        if found or left <= 0 or api.polls_ended != polls_ended or not api.log_ons.has(call.log_on):
            break
        await api.changed(left)
    return api.feed(call, lambda: [event_resource(event, call.request.base) for event in found])
