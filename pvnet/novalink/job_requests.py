"""What a client that starts a job sends, and the platform's command for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from pvnet.novalink.errors import RequestError
from pvnet.novalink.names import JOB_REQUEST, WEB_NS
from pvnet.novalink.request_body import (
    IGNORED_MAX,
    VALUE_MAX,
    Parsed,
    bad_request,
    invalid,
    read_document,
    read_flag,
    shown,
)
from pvnet.pb.v1.management_pb2 import PowerOff, PowerOn

_PARAMETERS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class JobRequest:
    """An operation on an object, with parameters as text."""

    operation: str
    group: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def job_request(data: bytes, group: str, operation: str) -> JobRequest:
    """Return the operation that is asked for at the path of ``operation`` of a ``group`` (kind of object)."""
    root = read_document(data, WEB_NS, JOB_REQUEST)
    for name, wanted in (("OperationName", operation), ("GroupName", group)):
        value = root.value("RequestedOperation", name)
        if value != wanted:
            raise invalid(name, value or "", f"{wanted!r} as in the path")
    parameters: dict[str, str] = {}
    listed = root.child("JobParameters")
    for parameter in () if listed is None else listed.children:
        if parameter.name != "JobParameter":
            continue
        key = parameter.value("ParameterName") or ""
        value = parameter.value("ParameterValue") or ""
        if not key or len(key) > VALUE_MAX or len(value) > VALUE_MAX:
            raise bad_request("Invalid value", f"JobParameter: name and value of 1 to {VALUE_MAX} characters expected")
        if key in parameters:
            raise bad_request("Invalid value", f"JobParameter {shown(key)}: more than once")
        parameters[key] = value
        if len(parameters) > _PARAMETERS_MAX:
            raise bad_request("Invalid value", f"JobParameters: more than {_PARAMETERS_MAX}")
    return JobRequest(operation, group, MappingProxyType(parameters))


def power_command(request: JobRequest, name: str) -> Parsed[PowerOn | PowerOff]:
    """Return the platform's command for a PowerOn or PowerOff of the partition ``name``.

    ``osshutdown`` asks the guest and leaves it running if it does not end; ``shutdown`` asks it and ends it; with
    ``immediate`` it is ended unasked, as ``dumprestart`` does it, which starts it again.
    """
    if request.operation == "PowerOn":
        return Parsed(PowerOn(name=name), tuple(request.parameters)[:IGNORED_MAX])
    if request.operation != "PowerOff":
        raise RequestError(404, "Unknown operation", f"{shown(request.operation)}, expected PowerOn or PowerOff")
    given = dict(request.parameters)
    operation = given.pop("operation", "shutdown")
    immediate = read_flag("immediate", given.pop("immediate", "false"))
    restart = read_flag("restart", given.pop("restart", "false"))
    if operation == "osshutdown":
        mode = PowerOff.Mode.GUEST
    elif operation == "dumprestart":
        mode, restart = PowerOff.Mode.IMMEDIATE, True
    elif operation == "shutdown":
        mode = PowerOff.Mode.IMMEDIATE if immediate else PowerOff.Mode.NORMAL
    else:
        raise invalid("operation", operation, "shutdown, osshutdown or dumprestart")
    return Parsed(PowerOff(name=name, mode=mode, restart=restart), tuple(given)[:IGNORED_MAX])
