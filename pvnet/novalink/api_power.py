"""Jobs: power on and off of partitions, each as a task that the client may watch, or not."""

from __future__ import annotations

import asyncio
from typing import Final

from pvnet.core.errors import PvnetError
from pvnet.novalink import job_documents, job_requests
from pvnet.novalink.api import Api, Call, Route
from pvnet.novalink.api_http import ApiError, Response
from pvnet.novalink.api_read import partition_of, view_of
from pvnet.novalink.catalog import CHILD, PARTITION
from pvnet.novalink.job_requests import JobRequest
from pvnet.novalink.jobs import Job
from pvnet.novalink.names import LOGICAL_PARTITION, STATES, UNKNOWN_STATE, UOM_ROOT, label_of, partition_uuid
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, Partition, PowerOff, PowerOn, ShowPartition

OPERATIONS: Final = ("PowerOn", "PowerOff")
AT_ONCE_S: Final = 2.0
"""A job that is over so soon is over in the answer to its request: the client need not poll."""
RECOVERY_S: Final = 30.0
"""How long a job whose session was lost waits for the next one."""
_TRIES: Final = 5
"""Commands of one job, at most: others may power its partition on and off at the same time."""
_BETWEEN: Final = frozenset({Partition.STARTING, Partition.STOPPING})


def refusal(request: JobRequest, partition: Partition) -> str:
    """Return why a job cannot be done to a partition as it is, with the code that clients look for; or nothing."""
    name = label_of(partition)
    if request.operation == "PowerOn":
        on = partition.state in {Partition.RUNNING, Partition.STARTING}
        return job_documents.already_on(name) if on else ""
    if partition.state == Partition.OFF:
        return job_documents.already_off(name)
    if request.parameters.get("operation") == "osshutdown" and not partition.guest_ready:
        return job_documents.no_rmc(name)
    return ""


def power_command(request: JobRequest, name: str) -> tuple[Management, tuple[str, ...]]:
    """Return the command that a job stands for, and the parameters that mean nothing here."""
    parsed = job_requests.power_command(request, name)
    if isinstance(parsed.command, PowerOn):
        return Management(power_on=parsed.command), parsed.ignored
    return Management(power_off=parsed.command), parsed.ignored


async def _template(api: Api, call: Call) -> Response:
    partition_of(await view_of(api, call), call)
    operation = _operation(call)
    return api.entry(call, "", lambda: job_documents.job_template(LOGICAL_PARTITION, operation))


def _operation(call: Call) -> str:
    name = call.parameters["operation"]
    if name not in OPERATIONS:
        text = f"There is no operation {name[:100]!r} of a {LOGICAL_PARTITION}; there are: {', '.join(OPERATIONS)}."
        raise ApiError(404, text, reason="Unknown operation")
    return name


async def _start(api: Api, call: Call) -> Response:
    partition = partition_of(await view_of(api, call), call)
    operation = _operation(call)
    request = job_requests.job_request(call.request.body, LOGICAL_PARTITION, operation)
    _, ignored = power_command(request, partition.name)  # what is wrong with it is said before there is a job
    call.note(ignored=ignored)
    job = api.jobs.add(call.user, request, partition_uuid(partition), _now_ms(api))
    if job is None:
        raise ApiError(503, f"There are {len(api.jobs)} jobs under way; wait until one is done.", retry_after_s=5)
    task = api.platform.spawn(run(api, job, partition), f"job {job.number}")
    await asyncio.wait([task], timeout=AT_ONCE_S)
    return _show(api, call, job)


async def run(api: Api, job: Job, before: Partition) -> None:
    """Carry out a job; until it has its turn it can be cancelled.  ``before`` is the partition as the client saw it."""
    async with api.power_slots:
        if api.jobs.begin(job, _now_ms(api)):
            api.jobs.finish(job, _now_ms(api), await _run(api, job.request, before))


async def _run(api: Api, request: JobRequest, before: Partition) -> str:
    """Return what went wrong, or nothing.

    What the mirror shows may be of a moment ago, so it decides nothing against the platform: a command that comes too
    late is refused there, and the refusal has the state that it was refused for.
    """
    name, label = before.name, label_of(before)
    command, _ = power_command(request, name)
    lost = False
    if not api.current and not await api.wait_mirror(lambda: api.current, RECOVERY_S):
        return "There is no session to the platform: nothing was done."
    for _ in range(_TRIES):
        if command.power_off.mode != PowerOff.IMMEDIATE:  # that one ends also what is stopping
            await api.wait_mirror(lambda: _state(api, name) != Partition.STOPPING, api.power_s)
        now = api.mirror.partitions.get(name)
        if now is None:
            return _deleted(label)
        label = label_of(now)
        if why := refusal(request, now):
            return "" if lost and _reached(request, now, now) else why
        try:
            reply = await api.run(command, timeout=api.power_s)
        except PvnetError:
            outcome = await _after_loss(api, request, now)
            if outcome is not None:
                return outcome
            lost = True
            continue
        if reply.status == ManagementReply.OK:
            return ""
        if reply.status == ManagementReply.NOT_FOUND:
            return _deleted(label)
        there = reply.partitions[0] if reply.partitions else None
        if reply.status != ManagementReply.CONFLICT or there is None:
            return reply.text or ManagementReply.Status.Name(reply.status)
        if why := refusal(request, there):
            return "" if lost and _reached(request, there, there) else why
        if there.state != Partition.STOPPING:
            return reply.text
        await api.hear(reply.revision)
    return f"The partition {label} was powered on and off by others all the time."


async def _after_loss(api: Api, request: JobRequest, before: Partition) -> str | None:
    """Judge a command whose answer was lost by what has become of the partition: "" done, None: run it again.

    To run it again is safe when the partition is as it was before the command, because on and off are states: who is
    in it already stays in it.  A restart is none, so it is not tried twice.
    """
    name, label = before.name, label_of(before)
    reply = await api.read(Management(show_partition=ShowPartition(name=name)), RECOVERY_S)
    if reply is None:
        return f"The platform has not answered: the {request.operation} of {label} may still be carried out."
    if reply.status == ManagementReply.NOT_FOUND:
        return _deleted(label)
    now = reply.partitions[0] if reply.partitions else None
    if now is not None and now.state in _BETWEEN:
        await api.wait_mirror(lambda: _state(api, name) not in _BETWEEN, api.power_s)
        now = api.mirror.partitions.get(name)
    if now is None:
        return _deleted(label)
    if _reached(request, before, now):
        return ""
    command, _ = power_command(request, name)
    unchanged = now.revision == before.revision
    if unchanged and not command.power_off.restart:
        return None
    why = f" ({now.text})" if now.text else ""
    state = STATES.get(now.state, UNKNOWN_STATE)
    text = f"The platform's answer was lost; the partition {label} is now in the state {state}{why}."
    return f"{text} The {request.operation} may still be carried out." if unchanged else text


def _reached(request: JobRequest, before: Partition, now: Partition) -> bool:
    """Whether a partition is what a job wants it to be."""
    command, _ = power_command(request, now.name)
    if command.HasField("power_off") and command.power_off.restart:
        return now.state == Partition.RUNNING and now.pid != before.pid
    return now.state == (Partition.RUNNING if command.HasField("power_on") else Partition.OFF)


def _state(api: Api, name: str) -> Partition.State | None:
    partition = api.mirror.partitions.get(name)
    return None if partition is None else partition.state


def _deleted(label: str) -> str:
    return f"The partition {label} has been deleted."


def _now_ms(api: Api) -> int:
    return int(api.wall_clock() * 1000)


def _show(api: Api, call: Call, job: Job) -> Response:
    return api.entry(call, "", lambda: job_documents.job_response(job.state()))


def _job(api: Api, call: Call) -> Job:
    text = call.parameters["job"]
    job = api.jobs.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 20 else None
    if job is None:
        raise ApiError(404, f"There is no job {text[:60]}: it has been deleted, or its result has expired.")
    return job


async def _poll(api: Api, call: Call) -> Response:
    return _show(api, call, _job(api, call))


async def _jobs(api: Api, call: Call) -> Response:
    return api.feed(call, lambda: [job_documents.job_response(job.state()) for job in api.jobs.all()])


async def _delete(api: Api, call: Call) -> Response:
    job = _job(api, call)
    if not api.jobs.delete(job):
        raise ApiError(409, f"Job {job.number} is {job.status.value}: it can be deleted when it is over.")
    return Response(204)


async def _cancel(api: Api, call: Call) -> Response:
    job = _job(api, call)
    if not job.status.over and not api.jobs.cancel(job, _now_ms(api)):
        raise ApiError(409, f"Job {job.number} is {job.status.value}: its command is under way and cannot be undone.")
    return Response(204)


POWER_ROUTES: Final = (
    *(
        route
        for place in (PARTITION, CHILD)
        for route in (
            Route("GET", f"{place}/do/{{operation}}", _template),
            Route("PUT", f"{place}/do/{{operation}}", _start),
        )
    ),
    Route("GET", f"{UOM_ROOT}/jobs", _jobs),
    Route("GET", f"{UOM_ROOT}/jobs/{{job}}", _poll),
    Route("DELETE", f"{UOM_ROOT}/jobs/{{job}}", _delete),
    Route("POST", f"{UOM_ROOT}/jobs/{{job}}/cancel", _cancel),
)
