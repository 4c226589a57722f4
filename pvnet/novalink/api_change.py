"""What can be changed: partitions, their virtual Ethernets, and switches.

A change runs as a task of its own: a client that hangs up in the middle leaves nothing half done.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Final

from pvnet.novalink.api import RETRY_AFTER_S, Api, Call, Route, check_etag, check_reply
from pvnet.novalink.api_http import ApiError, NoPlatformError, Response
from pvnet.novalink.api_read import adapter_of, partition_of, switch_of, view_of
from pvnet.novalink.catalog import CHILD, PARTITION, SYSTEM
from pvnet.novalink.mirror import Mirror
from pvnet.novalink.names import CLIENT_NETWORK_ADAPTER, FIELD_NAMES, LOGICAL_PARTITION, UOM_ROOT, VIRTUAL_SWITCH
from pvnet.novalink.network_documents import client_network_adapter, virtual_switch
from pvnet.novalink.network_requests import create_adapter, create_switch, modify_adapter
from pvnet.novalink.partition_documents import logical_partition
from pvnet.novalink.partition_requests import create_partition, modify_partition
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import (
    Adapter,
    CreateAdapter,
    CreatePartition,
    DeleteAdapter,
    DeletePartition,
    DeleteSwitch,
    Management,
    ManagementReply,
    ModifyAdapter,
    ModifyPartition,
    Partition,
    ShowSystem,
    Switch,
)

COMMAND_S: Final = 60.0
"""Longest command that defines something."""
RECOVERY_S: Final = 30.0
"""How long a change whose session was lost waits for the next one."""
EFFECT_S: Final = 2.0
"""How long it then waits for its effect."""
_PROCESSORS: Final[Mapping[str, str]] = {
    "units": "DesiredProcessingUnits",
    "min_units": "MinimumProcessingUnits",
    "max_units": "MaximumProcessingUnits",
    "virtual": "DesiredVirtualProcessors",
    "min_virtual": "MinimumVirtualProcessors",
    "max_virtual": "MaximumVirtualProcessors",
    "weight": "UncappedWeight",
}
NAMES: Final[Mapping[str, str]] = {**FIELD_NAMES, **{f"processors.{n}": e for n, e in _PROCESSORS.items()}}
"""Elements by field of a command, also of its processors."""
_SWITCH_NAMES: Final[Mapping[str, str]] = {"label": "SwitchName"}
_WORDS: Final[Mapping[str, str]] = {
    "min_memory <= memory <= max_memory": "MinimumMemory <= DesiredMemory <= MaximumMemory",
    "min_units <= units <= max_units": "minimum <= desired <= maximum units",
    "min_virtual <= virtual <= max_virtual": "minimum <= desired <= maximum virtual processors",
    "system.memory_region": "the system's unit",
    "system.memory": "a system memory",
    **{name: element for name, element in NAMES.items() if "_" in name},
}
"""Words of ours inside a text; those that mean something in English stay."""
_OURS: Final = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(_WORDS, key=len, reverse=True)))


async def _run(
    api: Api, command: Management, done: Callable[[Mirror], bool], names: Mapping[str, str] = NAMES
) -> ManagementReply:
    """Run a command to its end, whatever becomes of the request.

    ``done`` is asked when the answer was lost with its session: whether the platform is as the command makes it.
    ``names`` are the elements that fields of the command are called.
    """
    reply: ManagementReply | ApiError = await asyncio.shield(api.platform.spawn(_outcome(api, command, done), "change"))
    if isinstance(reply, ApiError):
        raise reply
    if reply.status == ManagementReply.NOT_FOUND:  # it was there when the request came
        raise ApiError(404, "It has been deleted meanwhile.")
    reply.text, reply.field = _worded(reply.text, reply.field, names), names.get(reply.field, reply.field)
    check_reply(reply)
    return reply


async def _outcome(api: Api, command: Management, done: Callable[[Mirror], bool]) -> ManagementReply | ApiError:
    """Return what a command came to.  Errors are returned, too: this is a task whose request may be gone."""
    loop = asyncio.get_running_loop()
    end = loop.time() + COMMAND_S
    try:
        return await api.run(command, timeout=COMMAND_S)
    except NoPlatformError:
        left = min(RECOVERY_S, end - loop.time())
    if left > 0 and await api.read(Management(show_system=ShowSystem()), left) is not None:
        # The mirror has heard of all up to now; the command may be on its way yet.
        if await api.wait_mirror(lambda: done(api.mirror), EFFECT_S):
            return ManagementReply(status=ManagementReply.OK, revision=api.mirror.revision)
        text = "The session to the platform was lost before its answer came; nothing has changed so far."
    else:
        text = "The platform did not answer."
    return ApiError(503, f"{text} The change may still be carried out.", retry_after_s=RETRY_AFTER_S)


def _worded(text: str, field: str, names: Mapping[str, str]) -> str:
    """Say it with the elements of the client's document instead of the fields of our command."""
    if field in names and text.startswith(f"{field}: "):
        text = f"{names[field]}{text[len(field) :]}"
    return _OURS.sub(lambda found: _WORDS[found[0]], text)


def _made(label: str, now: dict[str, Partition], reply: ManagementReply) -> Partition:
    """Return the partition that a command made: as the reply names it, else by its label."""
    name = reply.partitions[0].name if reply.partitions else next((n for n, p in now.items() if p.label == label), "")
    found = now.get(name)
    if found is None:
        raise ApiError(500, "The partition was made, but the platform does not tell of it.")
    return found


def _has(thing: Partition | Adapter, wanted: CreatePartition | ModifyPartition | CreateAdapter | ModifyAdapter) -> bool:
    """Whether an object has what a command gives it; what a command leaves open may be anything."""
    for field, value in wanted.ListFields():
        if field.name in {"name", "partition", "if_revision"}:
            continue
        now = getattr(thing, field.name)
        if field.name != "processors":
            same = now == value
        else:
            same = all(getattr(now, one.name) == given for one, given in value.ListFields())
        if not same:
            return False
    return True


async def _create_partition(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    parsed = create_partition(call.request.body, view)
    call.note(ignored=parsed.ignored)
    wanted, before = parsed.command, {p.name for p in view.partitions}

    def done(mirror: Mirror) -> bool:
        return any(_has(p, wanted) for p in mirror.partitions.values() if p.name not in before)

    reply = await _run(api, Management(create_partition=wanted), done)
    made = _made(wanted.label, api.mirror.partitions, reply)
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
        wanted, earlier = parsed.command, partition.revision

        def done(mirror: Mirror) -> bool:
            now = mirror.partitions.get(wanted.name)
            return now is not None and now.revision != earlier and _has(now, wanted)

        await _run(api, Management(modify_partition=wanted), done)
        view = await api.view()
        partition = partition_of(view, call)
    return api.entry(call, "", lambda: logical_partition(view, partition))


async def _delete_partition(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    revision = check_etag(call, logical_partition(view, partition))
    command = Management(delete_partition=DeletePartition(name=partition.name, if_revision=revision))
    await _run(api, command, lambda mirror: partition.name not in mirror.partitions)
    return Response(204)


async def _create_adapter(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    parsed = create_adapter(call.request.body, view, partition)
    call.note(ignored=parsed.ignored)
    before = {a.slot for a in partition.adapters}
    wanted = parsed.command

    def made_of(now: Partition | None) -> list[Adapter]:
        return [] if now is None else [a for a in now.adapters if a.slot not in before and _has(a, wanted)]

    command = Management(create_adapter=wanted)
    await _run(api, command, lambda mirror: bool(made_of(mirror.partitions.get(wanted.partition))))
    view = await api.view()
    partition = partition_of(view, call)
    made = made_of(partition)
    if not made:
        raise ApiError(500, "The adapter was made, but the platform does not tell of it.")
    return api.entry(call, "", lambda: client_network_adapter(view, partition, made[0]))


def _adapter(mirror: Mirror, partition: str, slot: int) -> Adapter | None:
    now = mirror.partitions.get(partition)
    return None if now is None else next((a for a in now.adapters if a.slot == slot), None)


async def _modify_adapter(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    partition = partition_of(view, call)
    adapter = adapter_of(view, partition, call)
    revision = check_etag(call, client_network_adapter(view, partition, adapter))
    parsed = modify_adapter(call.request.body, view, partition, adapter)
    call.note(ignored=parsed.ignored)
    if parsed.command is not None:
        parsed.command.if_revision = revision
        wanted, earlier = parsed.command, adapter.revision

        def done(mirror: Mirror) -> bool:
            now = _adapter(mirror, wanted.partition, wanted.slot)
            return now is not None and now.revision != earlier and _has(now, wanted)

        await _run(api, Management(modify_adapter=wanted), done)
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
    gone = command.partition, command.slot
    await _run(api, Management(delete_adapter=command), lambda mirror: _adapter(mirror, *gone) is None)
    return Response(204)


async def _create_switch(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    parsed = create_switch(call.request.body, view)
    call.note(ignored=parsed.ignored)
    label = parsed.command.label
    command = Management(create_switch=parsed.command)
    await _run(api, command, lambda mirror: any(s.label == label for s in mirror.switches.values()), _SWITCH_NAMES)
    view = await api.view()
    return api.entry(call, "", lambda: virtual_switch(view, _switch_labelled(view, label)))


def _switch_labelled(view: View, label: str) -> Switch:
    found = next((s for s in view.switches if s.label == label), None)
    if found is None:
        raise ApiError(500, "The switch was made, but the platform does not tell of it.")
    return found


async def _delete_switch(api: Api, call: Call) -> Response:
    view = await view_of(api, call)
    switch = switch_of(view, call)
    revision = check_etag(call, virtual_switch(view, switch))
    command = Management(delete_switch=DeleteSwitch(name=switch.name, if_revision=revision))
    await _run(api, command, lambda mirror: switch.name not in mirror.switches, _SWITCH_NAMES)
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
