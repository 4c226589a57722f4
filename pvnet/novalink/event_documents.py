"""Documents of events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pvnet.novalink.atom import Resource
from pvnet.novalink.markup import Element
from pvnet.novalink.names import EVENT, UOM_NS, UOM_ROOT
from pvnet.runtime.topology_system import made_uuid

EventType = Literal[
    "NEW_CLIENT", "ADD_URI", "MODIFY_URI", "DELETE_URI", "CACHE_CLEARED", "MISSING_EVENTS", "CUSTOM_CLIENT_EVENT"
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a client is told.  ``data`` is the path of what it concerns, or empty."""

    event_id: int
    event_type: EventType
    data: str = ""
    detail: str = ""


_SCHEMA: Final = "V1_0"


def event_resource(event: Event, base: str) -> Resource:
    """Return an event as a resource; ``base`` (scheme, host, port) is put before its path."""
    uuid = made_uuid("event", str(event.event_id), event.event_type)
    data = base + event.data if event.data.startswith("/") else event.data
    atom = Element(UOM_NS, "Atom", children=(_leaf("AtomID", uuid), _leaf("AtomCreated", "0")))
    content = Element(
        UOM_NS,
        EVENT,
        {"schemaVersion": _SCHEMA},
        children=(
            Element(UOM_NS, "Metadata", children=(atom,)),
            _leaf("EventType", event.event_type),
            _leaf("EventID", str(event.event_id)),
            _leaf("EventData", data),
            _leaf("EventDetail", event.detail),
        ),
    )
    return Resource(EVENT, uuid, str(event.event_id), f"{UOM_ROOT}/{EVENT}/{uuid}", content)


def _leaf(name: str, value: str) -> Element:
    return Element(UOM_NS, name, text=value)
