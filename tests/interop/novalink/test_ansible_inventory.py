"""Ansible's inventory plugin ``ibm.power_hmc.powervm_inventory`` lists the partitions of a lab."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest
from interop.novalink.client import environment_of
from interop.novalink.lab import EAST, SYSTEM, Lab

pytestmark = pytest.mark.slow
WEB = "http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/"
LOGON = """<LogonRequest schemaVersion="V1_0" xmlns="{web}" xmlns:mc="{web}"><UserID>{user}</UserID>\
<Password>{password}</Password></LogonRequest>"""
SOURCE = """plugin: ibm.power_hmc.powervm_inventory
hmc_hosts:
  "{host}":
    user: {user}
    password: {password}
identify_unknown_by: PartitionName
advanced_fields: {advanced}
keyed_groups:
  - prefix: state
    key: PartitionState
compose:
  number: PartitionID
"""


def host_of(lab: Lab) -> str:
    return f"localhost:{urlsplit(lab.endpoint['url']).port}"


@pytest.mark.usefixtures("ansible")
@pytest.mark.parametrize("advanced", ["false", "true"], ids=["quick", "advanced"])
def test_the_plugin_lists_all_partitions(shared_lab: Lab, tmp_path: Path, advanced: str) -> None:
    client = environment_of("ansible")
    source = tmp_path / "lab.power_hmc.yml"
    user, password = shared_lab.endpoint["user"], shared_lab.password
    source.write_text(SOURCE.format(host=host_of(shared_lab), user=user, password=password, advanced=advanced))
    done = subprocess.run(
        [str(client / "bin" / "ansible-inventory"), "-i", str(source), "--list"],
        env={
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "PATH": f"{client / 'bin'}:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(client / "collections"),
            "ANSIBLE_INVENTORY_ENABLED": "ibm.power_hmc.powervm_inventory",
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert sorted(listed["unknowns"]["hosts"]) == ["East End", "Management"], "they have no address"
    west = listed["_meta"]["hostvars"]["west"]
    assert (west["ansible_host"], int(west["number"])) == ("10.99.0.8", 8)
    assert listed["state_running"]["hosts"] == ["west"]


class Plugin:
    """The plugin's requests, as its source has them: with urllib, basic authentication beside the token, no ETags."""

    def __init__(self, lab: Lab) -> None:
        self._host = host_of(lab)
        self._tls = ssl.create_default_context(cafile=lab.endpoint["ca"])
        logon = LOGON.format(web=WEB, user=lab.endpoint["user"], password=lab.password)
        kind = {"Content-Type": "application/vnd.ibm.powervm.web+xml; type=LogonRequest"}
        _, answer = self.ask("PUT", "/web/Logon", kind, logon.encode())
        token = ET.fromstring(answer).findtext(f"{{{WEB}}}X-API-Session")
        assert token
        self._token = {"X-API-Session": token}

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(f"https://{self._host}/rest/api{path}", body, headers, method=method)
        request.add_header("Authorization", "Basic Og==")
        with urllib.request.urlopen(request, context=self._tls, timeout=60) as answer:
            return answer.status, answer.read()

    def get(self, path: str, accept: str = "*/*") -> tuple[int, bytes]:
        return self.ask("GET", path, {**self._token, "Accept": accept})

    def quick(self, path: str) -> Any:
        status, body = self.get(path)
        assert status == 200
        return json.loads(body)

    def log_off(self) -> int:
        kind = {"Content-Type": "application/vnd.ibm.powervm.web+xml; type=LogonRequest"}
        return self.ask("DELETE", "/web/Logon", {**kind, **self._token})[0]


def test_the_requests_that_it_makes(shared_lab: Lab) -> None:
    plugin = Plugin(shared_lab)
    (system,) = plugin.quick("/uom/ManagedSystem/quick/All")
    assert (system["UUID"], system["SystemName"], system["State"]) == (SYSTEM, "Kiruna 9", "operating")
    assert plugin.get("/uom/Group")[0] == 204
    of_system = f"/uom/ManagedSystem/{SYSTEM}"
    parts = {part["PartitionName"]: part for part in plugin.quick(f"{of_system}/LogicalPartition/quick/All")}
    assert sorted(parts) == ["East End", "Management", "west"]
    east = parts["East End"]
    assert (east["UUID"], east["PartitionID"], east["PartitionType"]) == (EAST, 7, "AIX/Linux")
    assert (east["PartitionState"], parts["west"]["PartitionState"]) == ("not activated", "running")
    addresses = (east["ResourceMonitoringIPAddress"], parts["west"]["ResourceMonitoringIPAddress"])
    assert addresses == (None, "10.99.0.8"), "what has one is a host to Ansible"
    assert plugin.quick(f"{of_system}/VirtualIOServer/quick/All") == []
    kind = "application/vnd.ibm.powervm.uom+xml; type=LogicalPartition"
    status, body = plugin.get(f"{of_system}/LogicalPartition?group=Advanced", kind)
    assert status == 200
    names = [element.text for element in ET.fromstring(body).iterfind(".//{*}PartitionName")]
    assert sorted(filter(None, names)) == ["East End", "Management", "west"]
    status, _ = plugin.get(f"{of_system}/VirtualIOServer?group=Advanced", kind)
    assert status in (200, 204)
    assert plugin.log_off() == 204
    with pytest.raises(urllib.error.HTTPError) as caught:
        plugin.get("/uom/ManagedSystem/quick/All")
    with caught.value as error:
        assert error.code == 401
        assert b"<Message" in error.read()


def test_a_search_without_quotes(shared_lab: Lab) -> None:
    """The collection's modules look for a system so."""
    plugin = Plugin(shared_lab)
    status, body = plugin.get("/uom/ManagedSystem/search/(SystemName==Kiruna%209)")
    assert status == 200
    assert SYSTEM.encode() in body
    assert plugin.get("/uom/ManagedSystem/search/(SystemName==Elsewhere)")[0] == 204
    plugin.log_off()
