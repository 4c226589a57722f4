"""What can be changed: partitions, their virtual Ethernets, and switches.

A change runs as a task of its own: a client that hangs up in the middle leaves nothing half done.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pvnet.novalink.api import Api, Call, Route, check_etag, check_reply
from pvnet.novalink.api_http import ApiError, Response
from pvnet.novalink.api_read import adapter_of, partition_of, switch_of, view_of
from pvnet.novalink.catalog import CHILD, PARTITION, SYSTEM
from pvnet.novalink.names import CLIENT_NETWORK_ADAPTER, FIELD_NAMES, LOGICAL_PARTITION, UOM_ROOT, VIRTUAL_SWITCH
from pvnet.novalink.network_documents import client_network_adapter, virtual_switch
from pvnet.novalink.network_requests import create_adapter, create_switch, modify_adapter
from pvnet.novalink.partition_documents import logical_partition
from pvnet.novalink.partition_requests import create_partition, modify_partition
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import (
    DeleteAdapter,
    DeletePartition,
    DeleteSwitch,
    Management,
    ManagementReply,
    Partition,
    Switch,
)

COMMAND_S: Final = 60.0
"""Longest command that defines something."""


async def _run(api: Api, command: Management) -> ManagementReply:
    """Run a command to its end, whatever becomes of the request."""
    task: asyncio.Task[ManagementReply] = api.platform.spawn(api.run(command, timeout=COMMAND_S), "change")
    reply = await asyncio.shield(task)
    if reply.field in FIELD_NAMES:
        reply.field = FIELD_NAMES[reply.field]
    check_reply(reply)
    return reply


def _made(before: set[str], now: dict[str, Partition], reply: ManagementReply) -> Partition:
    """Return the partition that a command made: as the reply names it, else what was not there before."""
    name = reply.partitions[0].name if reply.partitions else next((n for n in now if n not in before), "")
    found = now.get(name)
    if found is None:
        raise ApiError(500, "The partition was made, but the platform does not tell of it.")
    return found


async def _create_partition(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    parsed = create_partition(call.request.body, view)
    call.note(ignored=parsed.ignored)
    before = {p.name for p in view.partitions}
    reply = await _run(api, Management(create_partition=parsed.command))
    made = _made(before, api.mirror.partitions, reply)
    view = await api.view()
    return api.entry(call, "", lambda: logical_partition(view, made))


async def _modify_partition(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    revision = check_etag(call, logical_partition(view, partition))
    parsed = modify_partition(call.request.body, view, partition)
    call.note(ignored=parsed.ignored)
    if parsed.command is not None:
        parsed.command.if_revision = revision
        await _run(api, Management(modify_partition=parsed.command))
        view = await api.view()
        partition = partition_of(view, call)
    return api.entry(call, "", lambda: logical_partition(view, partition))


async def _delete_partition(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    revision = check_etag(call, logical_partition(view, partition))
    await _run(api, Management(delete_partition=DeletePartition(name=partition.name, if_revision=revision)))
    return Response(204)


async def _create_adapter(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    parsed = create_adapter(call.request.body, view, partition)
    call.note(ignored=parsed.ignored)
    before = {a.slot for a in partition.adapters}
    await _run(api, Management(create_adapter=parsed.command))
    view = await api.view()
    partition = partition_of(view, call)
    wanted = parsed.command.slot
    made = [a for a in partition.adapters if a.slot not in before and wanted in {0, a.slot}]
    if not made:
        raise ApiError(500, "The adapter was made, but the platform does not tell of it.")
    return api.entry(call, "", lambda: client_network_adapter(view, partition, made[0]))


async def _modify_adapter(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    adapter = adapter_of(view, partition, call)
    revision = check_etag(call, client_network_adapter(view, partition, adapter))
    parsed = modify_adapter(call.request.body, view, partition, adapter)
    call.note(ignored=parsed.ignored)
    if parsed.command is not None:
        parsed.command.if_revision = revision
        await _run(api, Management(modify_adapter=parsed.command))
        view = await api.view()
        partition = partition_of(view, call)
        adapter = adapter_of(view, partition, call)
    return api.entry(call, "", lambda: client_network_adapter(view, partition, adapter))


async def _delete_adapter(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    adapter = adapter_of(view, partition, call)
    revision = check_etag(call, client_network_adapter(view, partition, adapter))
    command = DeleteAdapter(partition=partition.name, slot=adapter.slot, if_revision=revision)
    await _run(api, Management(delete_adapter=command))
    return Response(204)


async def _create_switch(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    parsed = create_switch(call.request.body, view)
    call.note(ignored=parsed.ignored)
    await _run(api, Management(create_switch=parsed.command))
    view = await api.view()
    return api.entry(call, "", lambda: virtual_switch(view, _switch_labelled(view, parsed.command.label)))


def _switch_labelled(view: View, label: str) -> Switch:
    found = next((s for s in view.switches if s.label == label), None)
    if found is None:
        raise ApiError(500, "The switch was made, but the platform does not tell of it.")
    return found


async def _delete_switch(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    switch = switch_of(view, call)
    revision = check_etag(call, virtual_switch(view, switch))
    await _run(api, Management(delete_switch=DeleteSwitch(name=switch.name, if_revision=revision)))
    return Response(204)


CHANGE_ROUTES: Final = (
    Route("PUT", f"{UOM_ROOT}/{LOGICAL_PARTITION}", _create_partition),
    Route("PUT", f"{SYSTEM}/{LOGICAL_PARTITION}", _create_partition),
    *(
        route
        for place in (PARTITION, CHILD)
        for route in (
            Route("POST", place, _modify_partition),
            Route("DELETE", place, _delete_partition),
            Route("PUT", f"{place}/{CLIENT_NETWORK_ADAPTER}", _create_adapter),
            Route("POST", f"{place}/{CLIENT_NETWORK_ADAPTER}/{{adapter}}", _modify_adapter),
            Route("DELETE", f"{place}/{CLIENT_NETWORK_ADAPTER}/{{adapter}}", _delete_adapter),
        )
    ),
    Route("PUT", f"{SYSTEM}/{VIRTUAL_SWITCH}", _create_switch),
    Route("DELETE", f"{SYSTEM}/{VIRTUAL_SWITCH}/{{switch}}", _delete_switch),
)
