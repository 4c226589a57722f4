"""What can be read: resources and feeds, searches, single properties, and the feeds that are always empty here."""

from __future__ import annotations

import json
from typing import Final

from pvnet.novalink.api import Api, Call, Handler, Route
from pvnet.novalink.api_http import JSON_TYPE, ApiError, Response
from pvnet.novalink.catalog import CHILD, EMPTY_KINDS, PARTITION, SYSTEM
from pvnet.novalink.names import (
    CLIENT_NETWORK_ADAPTER,
    LOGICAL_PARTITION,
    MANAGED_SYSTEM,
    PERSISTENT_MEMORY_VOLUME,
    UOM_ROOT,
    VIRTUAL_IO_SERVER,
    VIRTUAL_NETWORK,
    VIRTUAL_SWITCH,
    system_uuid,
)
from pvnet.novalink.network_documents import client_network_adapter, virtual_network, virtual_switch
from pvnet.novalink.partition_documents import logical_partition, persistent_memory_volume
from pvnet.novalink.quick import quick_all, quick_one, quick_property
from pvnet.novalink.search import search
from pvnet.novalink.system_documents import managed_system
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Adapter, Partition, Switch


def no_such(kind: str, uuid: str) -> ApiError:
    """Return the answer for a resource that is not there."""
    return ApiError(404, f"There is no {kind} {uuid[:100]}.", reason="Not found")


async def view_of(api: Api, call: Call) -> View:
    """Return the platform; ApiError 404: the path names another system."""
    view = await api.view()
    uuid = call.parameters.get("system")
    if uuid is not None and uuid.lower() != system_uuid(view.system):
        raise no_such(MANAGED_SYSTEM, uuid)
    return view


def partition_of(view: View, call: Call) -> Partition:
    """Return the partition that the path names, or ApiError 404."""
    uuid = call.parameters["partition"]
    found = view.partition(uuid)
    if found is None:
        raise no_such(LOGICAL_PARTITION, uuid)
    return found


def adapter_of(view: View, partition: Partition, call: Call) -> Adapter:
    """Return the adapter that the path names, or ApiError 404."""
    uuid = call.parameters["adapter"]
    found = view.adapter(partition, uuid)
    if found is None:
        raise no_such(CLIENT_NETWORK_ADAPTER, uuid)
    return found


def switch_of(view: View, call: Call) -> Switch:
    """Return the switch that the path names, or ApiError 404."""
    uuid = call.parameters["switch"]
    found = view.switch(uuid)
    if found is None:
        raise no_such(VIRTUAL_SWITCH, uuid)
    return found


async def _systems(api: Api, call: Call) -> Response:
    view = await api.view()
    return api.feed(call, lambda: [managed_system(view, api.mode)], key=call.request.target)


async def _system(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    return api.entry(call, MANAGED_SYSTEM, lambda: managed_system(view, api.mode))


async def _partitions(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    return api.feed(call, lambda: [logical_partition(view, p) for p in view.partitions], key=call.request.target)


async def _partition(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    key = f"{LOGICAL_PARTITION}/{partition.name}"
    return api.entry(call, key, lambda: logical_partition(view, partition))


async def _adapters(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    p = partition_of(view, call)
    return api.feed(call, lambda: [client_network_adapter(view, p, a) for a in p.adapters])


async def _adapter(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    p = partition_of(view, call)
    a = adapter_of(view, p, call)
    return api.entry(call, "", lambda: client_network_adapter(view, p, a))


async def _volumes(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    p = partition_of(view, call)
    return api.feed(call, lambda: [persistent_memory_volume(view, p, v) for v in p.scm])


async def _volume(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    p = partition_of(view, call)
    found = view.volume(p, call.parameters["volume"])
    if found is None:
        raise no_such(PERSISTENT_MEMORY_VOLUME, call.parameters["volume"])
    return api.entry(call, "", lambda: persistent_memory_volume(view, p, found))


async def _switches(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    return api.feed(call, lambda: [virtual_switch(view, s) for s in view.switches])


async def _switch(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    found = switch_of(view, call)
    return api.entry(call, "", lambda: virtual_switch(view, found))


async def _networks(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    return api.feed(call, lambda: [virtual_network(view, s, vlan) for s, vlan in view.networks()])


async def _network(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    found = view.network(call.parameters["network"])
    if found is None:
        raise no_such(VIRTUAL_NETWORK, call.parameters["network"])
    return api.entry(call, "", lambda: virtual_network(view, *found))


async def _search_partitions(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    every = (logical_partition(view, p) for p in view.partitions)
    found = search(call.parameters["search"], every)
    return api.feed(call, lambda: found)


async def _search_systems(api: Api, call: Call) -> Response:
    found = search(call.parameters["search"], [managed_system(await api.view(), api.mode)])
    return api.feed(call, lambda: found)


async def _search_switches(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    found = search(call.parameters["search"], (virtual_switch(view, s) for s in view.switches))
    return api.feed(call, lambda: found)


def _quick_all(kind: str) -> Handler:
    async def show(api: Api, call: Call) -> Response:
        return _json(quick_all(kind, await view_of(api, call), call.request.base))

    return show


async def _quick(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call) if "partition" in call.parameters else None
    name, base = call.parameters.get("property", "All"), call.request.base
    return _json(quick_one(view, partition, base) if name == "All" else quick_property(name, view, partition, base))


def _json(value: object) -> Response:
    return Response(200, json.dumps(value).encode(), JSON_TYPE)


async def _empty(api: Api, call: Call) -> Response:
    await view_of(api, call)
    return Response(204)


def _empty_routes() -> list[Route]:
    found = []
    for kind in EMPTY_KINDS:
        found.append(Route("GET", f"{UOM_ROOT}/{kind}", _empty))
        found.append(Route("GET", f"{SYSTEM}/{kind}", _empty))
    return found


READ_ROUTES: Final = (
    Route("GET", f"{UOM_ROOT}/{MANAGED_SYSTEM}", _systems),
    Route("GET", SYSTEM, _system),
    Route("GET", f"{UOM_ROOT}/{LOGICAL_PARTITION}", _partitions),
    Route("GET", f"{SYSTEM}/{LOGICAL_PARTITION}", _partitions),
    Route("GET", f"{UOM_ROOT}/{LOGICAL_PARTITION}/search/{{search}}", _search_partitions),
    Route("GET", f"{SYSTEM}/{LOGICAL_PARTITION}/search/{{search}}", _search_partitions),
    Route("GET", f"{UOM_ROOT}/{MANAGED_SYSTEM}/search/{{search}}", _search_systems),
    Route("GET", f"{UOM_ROOT}/{MANAGED_SYSTEM}/quick/All", _quick_all(MANAGED_SYSTEM)),
    Route("GET", f"{UOM_ROOT}/{LOGICAL_PARTITION}/quick/All", _quick_all(LOGICAL_PARTITION)),
    Route("GET", f"{SYSTEM}/{LOGICAL_PARTITION}/quick/All", _quick_all(LOGICAL_PARTITION)),
    Route("GET", f"{SYSTEM}/{VIRTUAL_IO_SERVER}/quick/All", _quick_all(VIRTUAL_IO_SERVER)),
    Route("GET", f"{SYSTEM}/quick/{{property}}", _quick),
    Route("GET", f"{SYSTEM}/quick", _quick),
    Route("GET", PARTITION, _partition),
    Route("GET", CHILD, _partition),
    *(
        route
        for place in (PARTITION, CHILD)
        for route in (
            Route("GET", f"{place}/quick/{{property}}", _quick),
            Route("GET", f"{place}/quick", _quick),
            Route("GET", f"{place}/{CLIENT_NETWORK_ADAPTER}", _adapters),
            Route("GET", f"{place}/{CLIENT_NETWORK_ADAPTER}/{{adapter}}", _adapter),
            Route("GET", f"{place}/{PERSISTENT_MEMORY_VOLUME}", _volumes),
            Route("GET", f"{place}/{PERSISTENT_MEMORY_VOLUME}/{{volume}}", _volume),
        )
    ),
    Route("GET", f"{SYSTEM}/{VIRTUAL_SWITCH}", _switches),
    Route("GET", f"{SYSTEM}/{VIRTUAL_SWITCH}/search/{{search}}", _search_switches),
    Route("GET", f"{SYSTEM}/{VIRTUAL_SWITCH}/{{switch}}", _switch),
    Route("GET", f"{SYSTEM}/{VIRTUAL_NETWORK}", _networks),
    Route("GET", f"{SYSTEM}/{VIRTUAL_NETWORK}/{{network}}", _network),
    *_empty_routes(),
)
