"""Documents of jobs: the template that a client fills in, and what became of a job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pvnet.novalink.atom import Resource
from pvnet.novalink.job_requests import JobRequest
from pvnet.novalink.markup import Element
from pvnet.novalink.names import JOB_REQUEST, JOB_RESPONSE, UOM_ROOT, WEB_NS, web_type
from pvnet.runtime.topology_system import made_uuid

Status = Literal["NOT_STARTED", "RUNNING", "COMPLETED_OK", "COMPLETED_WITH_WARNINGS", "COMPLETED_WITH_ERROR"]
"""What a client polls a job for; it polls on while it is one of the first two."""

_SCHEMA: Final = "V1_0"


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as it is shown.  Times are milliseconds since 1970; ``completed_ms`` 0: it has not ended."""

    job_id: int
    request: JobRequest
    target_uuid: str
    status: Status
    started_ms: int = 0
    completed_ms: int = 0
    message: str = ""
    """Why it failed, with the code that clients look for."""
    results: Mapping[str, str] = field(default_factory=dict)


def already_on(label: str) -> str:
    """Return the message of a PowerOn that had nothing to do; clients take it for success."""
    return f"HSCL3681 The partition {label} is already on."


def already_off(label: str) -> str:
    """Return the message of a PowerOff that had nothing to do; clients take it for success."""
    return f"HSCL1558 The partition {label} is already off."


def no_rmc(label: str) -> str:
    """Return the message of an OS shutdown that cannot reach the guest; clients then shut down without it."""
    return f"HSCL0DB4 The operating system of the partition {label} takes no requests."


def job_path(job_id: int) -> str:
    """Return where a job stands."""
    return f"{UOM_ROOT}/jobs/{job_id}"


def _web(name: str, text: str = "", *children: Element) -> Element:
    return Element(WEB_NS, name, text=text, children=children)


def _group(name: str, *children: Element) -> Element:
    metadata = Element(WEB_NS, "Metadata", children=(Element(WEB_NS, "Atom"),))
    return Element(WEB_NS, name, {"schemaVersion": _SCHEMA}, children=(metadata, *children))


def _parameters(name: str, values: Iterable[tuple[str, str]]) -> Element:
    return _group(
        name,
        *(_group("JobParameter", _web("ParameterName", key), _web("ParameterValue", value)) for key, value in values),
    )


def _request(name: str, request: JobRequest) -> Element:
    operation = _group("RequestedOperation", _web("OperationName", request.operation), _web("GroupName", request.group))
    return _group(name, operation, _parameters("JobParameters", request.parameters.items()))


def job_template(group: str, operation: str) -> Resource:
    """Return the JobRequest that a client adds its parameters to."""
    return Resource(
        JOB_REQUEST,
        made_uuid("job-template", group, operation),
        "",
        "",
        _request(JOB_REQUEST, JobRequest(operation, group)),
        media_type=web_type(JOB_REQUEST),
    )


def _results(job: JobState) -> list[tuple[str, str]]:
    failed = job.status == "COMPLETED_WITH_ERROR"
    results = [("returnCode", "1" if failed else "0")]
    if job.message:
        results.append(("result", job.message))
    return results + list(job.results.items())


def job_response(job: JobState) -> Resource:
    """Return the JobResponse of a job."""
    request = job.request
    url = f"{UOM_ROOT}/{request.group}/{job.target_uuid}/do/{request.operation}"
    children = [
        Element(WEB_NS, "RequestURL", {"href": url, "rel": "via"}),
        _web("TargetUuid", job.target_uuid),
        _web("JobID", str(job.job_id)),
        _web("TimeStarted", str(job.started_ms)),
        _web("TimeCompleted", str(job.completed_ms)),
        _web("Status", job.status),
    ]
    if job.status == "COMPLETED_WITH_ERROR":
        children.append(_group("ResponseException", _web("Message", job.message)))
    children.append(_request("JobRequestInstance", request))
    if job.status.startswith("COMPLETED"):
        children.append(_parameters("Results", _results(job)))
    return Resource(
        JOB_RESPONSE,
        made_uuid("job", str(job.job_id)),
        "",
        job_path(job.job_id),
        _group(JOB_RESPONSE, *children),
        media_type=web_type(JOB_RESPONSE),
    )
