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
from pvnet.novalink.names import LOGICAL_PARTITION, UOM_ROOT, label_of, partition_uuid
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, Partition, PowerOn

OPERATIONS: Final = ("PowerOn", "PowerOff")
AT_ONCE_S: Final = 2.0
"""A job that is over so soon is over in the answer to its request: the client need not poll."""


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
    task = api.platform.spawn(run(api, job, partition.name), f"job {job.number}")
    await asyncio.wait([task], timeout=AT_ONCE_S)
    return _show(api, call, job)


async def run(api: Api, job: Job, name: str) -> None:
    """Carry out a job; until it has its turn it can be cancelled."""
    async with api.power_slots:
        if api.jobs.begin(job, _now_ms(api)):
            api.jobs.finish(job, _now_ms(api), await _run(api, job, name))


async def _run(api: Api, job: Job, name: str) -> str:
    """Return what went wrong, or nothing."""

    def settled() -> bool:
        partition = api.mirror.partitions.get(name)
        return partition is None or partition.state != Partition.STOPPING

    await api.wait_mirror(settled, api.power_s)
    partition = api.mirror.partitions.get(name)
    if partition is None:
        return f"The partition {name} has been deleted."
    if why := refusal(job.request, partition):
        return why
    command, _ = power_command(job.request, name)
    try:
        reply = await api.run(command, timeout=api.power_s)
    except PvnetError as error:
        return str(error)
    if reply.status == ManagementReply.OK:
        return ""
    now = api.mirror.partitions.get(name)
    if reply.status == ManagementReply.CONFLICT and now is not None and (why := refusal(job.request, now)):
        return why  # somebody else was faster
    return reply.text or ManagementReply.Status.Name(reply.status)


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
