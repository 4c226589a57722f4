"""The REST interface: which request is answered how, apart from sockets and from the platform itself.

:class:`Api` answers a :class:`Request` with a :class:`Response`.  What it shows comes from the mirror; what it changes
goes as a command to the platform (``Platform``), and the answer waits until the mirror has heard of it, so that a
client's next request sees what its last one did.  Commands run as tasks of their own: a client that hangs up leaves
nothing half done.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import unquote

from pvnet.novalink import atom
from pvnet.novalink.api_http import ApiError, NoPlatformError, Request, Response
from pvnet.novalink.catalog import explain
from pvnet.novalink.errors import RequestError, http_error
from pvnet.novalink.event_documents import EventType
from pvnet.novalink.events import EventQueues
from pvnet.novalink.jobs import JobTable
from pvnet.novalink.mirror import Happened, Mirror
from pvnet.novalink.names import (
    CLIENT_NETWORK_ADAPTER,
    LOGICAL_PARTITION,
    UOM_ROOT,
    VIRTUAL_SWITCH,
    Mode,
    system_path,
)
from pvnet.novalink.sessions import LogOn, LogOns
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Change, Management, ManagementReply

PLATFORM_WAIT_S: Final = 5.0
"""How long a request waits for a session that has been lost."""
MIRROR_WAIT_S: Final = 5.0
"""How long an answer waits for the mirror to hear of what the request did."""
_READ_AGAIN_S: Final = 0.25
RETRY_AFTER_S: Final = 2
_CACHE_BYTES: Final = 16 << 20
_POWER_AT_ONCE: Final = 2


class Platform(Protocol):
    """What carries out commands: a VMC session."""

    async def run(self, command: Management, *, timeout: float) -> ManagementReply:
        """Run a command; NoPlatformError: there is no session, or it ended, or there was no answer in time."""

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something as a task that outlives the request."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request under way: what the path named, and who asks."""

    request: Request
    parameters: Mapping[str, str]
    user: str = ""
    log_on: LogOn | None = None
    notes: dict[str, object] = field(default_factory=dict)
    """For the audit log."""

    def note(self, **notes: object) -> None:
        """Have these in the audit log, unless they are empty."""
        self.notes.update((name, value) for name, value in notes.items() if value)


Handler = Callable[["Api", Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """A request that is answered: method and template of the path, as ``/rest/api/uom/jobs/{job}``."""

    method: str
    path: str
    handler: Handler
    open: bool = False
    """Whether it needs no log-on."""

    def pattern(self) -> re.Pattern[str]:
        """Return what matches the path, the names in braces as groups of one step each."""
        return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path)))


class Api:
    """See the module's text.  ``first`` is the number that events and jobs count on from."""

    def __init__(
        self,
        platform: Platform,
        *,
        mode: Mode = "pvm",
        log_ons: LogOns,
        first: int,
        power_s: float = 90.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.platform = platform
        self.mode: Mode = mode
        self.mirror = Mirror()
        self.events = EventQueues(first)
        self.jobs = JobTable(first)
        self.log_ons = log_ons
        self.power_s = power_s
        """Longest power command, in seconds."""
        self.clock = clock
        self.wall_clock = wall_clock
        self.counters: Counter[str] = Counter()
        self._routes: list[tuple[Route, re.Pattern[str]]] = []
        self._view: View | None = None
        self.current = False
        """Whether somebody tells the mirror of changes."""
        self._cache: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._cached_bytes = 0
        self._made_at = 0.0
        self.power_slots = asyncio.Semaphore(_POWER_AT_ONCE)
        """For power commands: the rest of what a session can carry at once is for others."""
        self.polls_ended = 0
        """Grows when those who wait for events are to be answered at once."""
        self._changed = asyncio.Event()

    def add_routes(self, routes: tuple[Route, ...]) -> None:
        """Answer these, too."""
        self._routes.extend((route, route.pattern()) for route in routes)

    # --- requests --------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> tuple[Response, Mapping[str, object]]:
        """Answer a request, whatever it is; also what the audit log should have of it."""
        notes: dict[str, object] = {}
        try:
            route, parameters = self._find(request)
            log_on = None if route.open else self._log_on(request)
            call = Call(request, parameters, "" if log_on is None else log_on.user, log_on, notes)
            call.note(user=call.user)
            response = await route.handler(self, call)
        except ApiError as error:
            response = self.error(request, error)
        except RequestError as error:
            response = self.error(request, ApiError(error.status, error.message, reason=error.reason))
        except NoPlatformError as error:
            response = self.error(request, ApiError(503, str(error), retry_after_s=RETRY_AFTER_S))
        return response, notes

    def error(self, request: Request, error: ApiError) -> Response:
        """Return the document of an error."""
        self.counters[f"errors_{error.status}"] += 1
        body = http_error(error.status, request.target, error.reason, error.message, self.wall_clock())
        return Response(error.status, body, headers=error.headers)

    def _find(self, request: Request) -> tuple[Route, dict[str, str]]:
        allowed: set[str] = set()
        for route, pattern in self._routes:
            found = pattern.fullmatch(request.path)
            if found is not None:
                if route.method == request.method:
                    return route, _named(found)
                allowed.add(route.method)
        if not allowed:
            raise ApiError(404, explain(request.path), reason="Unknown resource")
        names = ", ".join(sorted(allowed))
        error = ApiError(405, f"{request.method} is not possible at {request.path[:200]}; expected one of: {names}")
        error.headers = {"Allow": names}
        raise error

    def _log_on(self, request: Request) -> LogOn:
        token = request.headers.get("x-api-session", "").strip()
        found = self.log_ons.find(token, self.clock())
        if found is None:
            text = "The session has expired, or there was none" if token else "There is no X-API-Session header"
            raise ApiError(401, f"{text}: log on by PUT /rest/api/web/Logon.", reason="Not logged on")
        return found

    # --- what the platform is --------------------------------------------------------------------------------------

    async def view(self) -> View:
        """Return the platform as it is; NoPlatformError when nobody tells us of it for too long."""
        if not self.current and not await self.wait_mirror(lambda: self.current, PLATFORM_WAIT_S):
            raise NoPlatformError("There is no session to the platform now; it is being opened again.")
        assert self._view is not None, "what is current has been shown"
        return self._view

    def lost(self) -> None:
        """The mirror no longer hears of changes: requests wait for :meth:`show` or :meth:`found`."""
        self.current = False

    def found(self) -> None:
        """The mirror is what the platform is."""
        self.current = True
        self.ring()

    def show(self, happened: list[Happened]) -> None:
        """The mirror has changed: from now on show that, and tell the clients."""
        mirror = self.mirror
        assert mirror.system is not None, "it has had a picture"
        partitions, switches = tuple(mirror.partitions.values()), tuple(mirror.switches.values())
        self._view = View(mirror.system, partitions, switches, dict(mirror.switch_ids))
        self._forget_documents()
        self._made_at = self.wall_clock()
        self.current = True
        for one in happened:
            self._publish(one)
        self.ring()

    def _publish(self, one: Happened) -> None:
        assert self._view is not None, "show() has made it"
        if not one.object:
            self.events.publish("CACHE_CLEARED")
            return
        system = system_path(self._view.system)
        match one.object:
            case Change.SYSTEM:
                path = system
            case Change.PARTITION:
                path = f"{system}/{LOGICAL_PARTITION}/{one.uuid.upper()}"
            case Change.ADAPTER:
                partition = one.partition_uuid.upper()
                path = f"{UOM_ROOT}/{LOGICAL_PARTITION}/{partition}/{CLIENT_NETWORK_ADAPTER}/{one.uuid.lower()}"
            case Change.SWITCH:
                path = f"{system}/{VIRTUAL_SWITCH}/{one.uuid.lower()}"
            case _:
                self.counters["unknown_change"] += 1
                return
        kind = _EVENTS.get(one.kind, "MODIFY_URI")
        self.events.publish(kind, path, one.detail if kind == "MODIFY_URI" else "")

    async def changed(self, timeout: float) -> None:
        """Wait until the mirror changes or an event is published, at most so many seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    def end_polls(self) -> None:
        """Have those who wait for events answered: others need their connections."""
        self.polls_ended += 1
        self.ring()

    def ring(self) -> None:
        """Wake who waits for something to change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_mirror(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so, at most so many seconds; whether it is."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not reached():
            left = end - loop.time()
            if left <= 0:
                return False
            await self.changed(left)
        return True

    async def run(self, command: Management, *, timeout: float) -> ManagementReply:
        """Run a command, and wait until the mirror has heard of what it did."""
        reply = await self.platform.run(command, timeout=timeout)
        if reply.status == ManagementReply.OK:
            await self.hear(reply.revision)
        return reply

    async def read(self, command: Management, seconds: float) -> ManagementReply | None:
        """Run a command that changes nothing, session after session until it is answered; None: not in that time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            try:
                reply = await self.run(command, timeout=left)
            except NoPlatformError:
                pass
            else:
                if reply.status in {ManagementReply.OK, ManagementReply.NOT_FOUND}:
                    return reply
            await self.changed(min(_READ_AGAIN_S, max(0.0, end - loop.time())))
        return None

    async def hear(self, revision: int) -> None:
        """Wait until the mirror has heard of a revision, but not for ever."""
        heard = await self.wait_mirror(lambda: self.mirror.revision >= revision, MIRROR_WAIT_S)
        self.counters["mirror_late"] += not heard

    # --- answers ---------------------------------------------------------------------------------------------------

    def entry(self, call: Call, key: str, make: Callable[[], atom.Resource], *, status: int = 200) -> Response:
        """Answer with one resource, or 304 when the client has it; ``key`` names it among the documents of a view."""
        etag, body = self._document(key, call.request.base, make)
        if etag and _same_etag(call.request.headers.get("if-none-match", ""), etag) and call.request.method == "GET":
            return Response(304, headers={"ETag": etag})
        return Response(status, body, headers={"ETag": etag} if etag else {})

    def _document(self, key: str, base: str, make: Callable[[], atom.Resource]) -> tuple[str, bytes]:
        found = self._cache.get((key, base)) if key else None
        if found is None:
            resource = make()
            found = (resource.etag, atom.entry(resource, base, self._made_at))
            self._keep(key, base, found)
        return found

    def feed(self, call: Call, make: Callable[[], list[atom.Resource]], *, key: str = "") -> Response:
        """Answer with several resources, or 204 when there are none; ``key`` as for :meth:`entry`."""
        found = self._cache.get((key, call.request.base)) if key else None
        if found is None:
            made = make()
            found = ("", atom.feed(call.request.target, made, call.request.base, self._made_at) if made else b"")
            self._keep(key, call.request.base, found)
        return Response(200, found[1]) if found[1] else Response(204)

    def _keep(self, key: str, base: str, document: tuple[str, bytes]) -> None:
        if not key:
            return
        self._cached_bytes += len(document[1]) + len(key)
        if self._cached_bytes > _CACHE_BYTES:  # clients choose queries and host names: nobody fills our memory by them
            self._forget_documents()
        else:
            self._cache[key, base] = document

    def _forget_documents(self) -> None:
        self._cache.clear()
        self._cached_bytes = 0


def _named(found: re.Match[str]) -> dict[str, str]:
    """Return what the path names; an expression stays quoted, since its quotes tell where its values end."""
    try:
        return {k: v if k == "search" else unquote(v, errors="strict") for k, v in found.groupdict().items()}
    except UnicodeDecodeError:
        raise ApiError(400, f"path: expected UTF-8 in {found.string[:200]!r}") from None


def _same_etag(given: str, etag: str) -> bool:
    return any(one.strip().removeprefix("W/").strip('"') in {etag, "*"} for one in given.split(",") if one.strip())


def check_etag(call: Call, resource: atom.Resource) -> int:
    """Return the revision that a change is meant for (0: any); ApiError 412: the client saw another one."""
    given = call.request.headers.get("if-match", "").strip()
    if not given or given == "*":
        return 0
    if not _same_etag(given, resource.etag):
        text = (
            f"{resource.kind} {resource.uuid} has changed since it was read: its ETag is {resource.etag}, not {given}."
        )
        raise ApiError(412, text[:500], reason="Precondition failed")
    return resource.revision


_EVENTS: Final[Mapping[int, EventType]] = {Change.ADDED: "ADD_URI", Change.REMOVED: "DELETE_URI"}
_STATUS: Final[Mapping[int, int]] = {
    ManagementReply.NOT_FOUND: 404,
    ManagementReply.CONFLICT: 409,
    ManagementReply.FAILED: 500,
    ManagementReply.NOT_SUPPORTED: 501,
    ManagementReply.MALFORMED: 500,
    ManagementReply.STALE: 412,
    ManagementReply.INVALID: 400,
}


def check_reply(reply: ManagementReply) -> None:
    """Raise ApiError for a reply that does not say OK."""
    if reply.status == ManagementReply.OK:
        return
    text = reply.text or ManagementReply.Status.Name(reply.status)
    if reply.status == ManagementReply.INVALID and reply.field and reply.field not in text:
        text = f"{reply.field}: {text}"
    raise ApiError(_STATUS.get(reply.status, 500), text)
