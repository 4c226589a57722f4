"""What a client that logs on sends."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvnet.novalink.names import LOGON_REQUEST, WEB_NS
from pvnet.novalink.request_body import VALUE_MAX, bad_request, read_document


@dataclass(frozen=True, slots=True)
class LogonRequest:
    """Who wants to log on: by a password, or (``password`` None) by reading a file of the service's machine."""

    user: str
    password: str | None = field(default=None, repr=False)


def logon_request(data: bytes) -> LogonRequest:
    """Return who wants to log on."""
    root = read_document(data, WEB_NS, LOGON_REQUEST)
    user = root.value("UserID") or ""
    if not user or len(user) > VALUE_MAX:
        what = "too long" if user else "nothing, expected the name of a user"
        raise bad_request("Missing field", f"UserID: {what}")
    wants_file = (root.value("GenerateX-API-SessionFile") or "").lower() == "true"
    password = root.child("Password")
    if wants_file == (password is not None):
        expected = "either a Password, or GenerateX-API-SessionFile with the value true"
        raise bad_request("Missing field", f"expected {expected}")
    if password is None:
        return LogonRequest(user)
    if len(password.text) > VALUE_MAX:
        raise bad_request("Invalid value", f"Password: more than {VALUE_MAX} characters")
    return LogonRequest(user, password.text)
