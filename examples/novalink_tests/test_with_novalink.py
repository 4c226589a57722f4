"""Tests of a program that manages partitions: each gets an endpoint that nobody used before."""

import ssl
import urllib.request

from pvnet.client.pytest_plugin import Novalink

LOG_ON = """<LogonRequest xmlns="http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/" schemaVersion="V1_0">
<UserID>{user}</UserID><Password>{password}</Password></LogonRequest>"""


def test_log_on(novalink: Novalink) -> None:
    request = urllib.request.Request(  # noqa: S310 - the fixture's own address
        f"{novalink.url}/rest/api/web/Logon",
        data=LOG_ON.format(user=novalink.user, password=novalink.password).encode(),
        headers={"Content-Type": "application/vnd.ibm.powervm.web+xml; type=LogonRequest"},
        method="PUT",
    )
    trusted = ssl.create_default_context(cafile=novalink.ca)
    with urllib.request.urlopen(request, context=trusted) as answer:  # noqa: S310
        assert b"X-API-Session" in answer.read()


def test_looked_at_from_the_side(novalink: Novalink) -> None:
    assert "novalink" in novalink.lab.pvnet("ps")
