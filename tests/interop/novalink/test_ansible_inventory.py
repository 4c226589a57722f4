"""Ansible's inventory plugin ``ibm.power_hmc.powervm_inventory`` lists the partitions of a lab."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest
from interop.novalink.client import REPOSITORY, environment_of
from interop.novalink.lab import EAST, SYSTEM, Lab, lab_up

pytestmark = pytest.mark.slow
DOCUMENT = REPOSITORY / "docs" / "novalink.md"
WEB = "http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/"
LOGON = """<LogonRequest schemaVersion="V1_0" xmlns="{web}" xmlns:mc="{web}"><UserID>{user}</UserID>\
<Password>{password}</Password></LogonRequest>"""


def host_of(lab: Lab) -> str:
    return f"localhost:{urlsplit(lab.endpoint['url']).port}"


def plain(value: dict[str, Any]) -> Any:
    """What Ansible says without its mark for text that it did not write itself."""
    return value.get("__ansible_unsafe", value)


@dataclass(frozen=True)
class Inventory:
    """Groups with their hosts, and the variables of the hosts."""

    groups: dict[str, list[str]]
    variables: dict[str, dict[str, Any]]


@pytest.fixture
def listed(ansible: None, tmp_path: Path) -> Callable[..., Inventory]:
    """List by an inventory file; what is given beside its text is for the environment."""

    def listed(text: str, **environment: str) -> Inventory:
        client = environment_of("ansible")
        source = tmp_path / "lab.power_hmc.yml"
        source.write_text(text)
        done = subprocess.run(
            [str(client / "bin" / "ansible-inventory"), "-i", str(source), "--list"],
            env={
                "HOME": str(tmp_path),
                "LANG": "C.UTF-8",
                "PATH": f"{client / 'bin'}:{os.environ['PATH']}",
                "ANSIBLE_COLLECTIONS_PATH": str(client / "collections"),
                "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout, object_hook=plain)
        variables = said.pop("_meta")["hostvars"]
        return Inventory({name: sorted(group["hosts"]) for name, group in said.items() if "hosts" in group}, variables)

    return listed


@pytest.fixture
def inventory(listed: Callable[..., Inventory]) -> Callable[..., Inventory]:
    """List a lab; what is given are options of the plugin."""

    def inventory(lab: Lab, **options: object) -> Inventory:
        user = {"hmc": host_of(lab), "user": lab.endpoint["user"], "password": lab.password}
        # JSON is YAML, too.
        text = json.dumps({"plugin": "ibm.power_hmc.powervm_inventory", "hmc_hosts": [user], **options})
        return listed(text, ANSIBLE_INVENTORY_ENABLED="ibm.power_hmc.powervm_inventory")

    return inventory


@pytest.fixture(scope="module")
def console() -> Iterator[Lab]:
    """A lab whose service is like an HMC's."""
    with lab_up(mode="hmc") as lab:
        yield lab


ADVANCED = pytest.mark.parametrize("advanced", [False, True], ids=["quick", "advanced"])


@ADVANCED
@pytest.mark.parametrize("kind", ["shared_lab", "console"], ids=["pvm", "hmc"])
def test_the_plugin_lists_all_partitions(
    inventory: Callable[..., Inventory], request: pytest.FixtureRequest, kind: str, advanced: bool
) -> None:
    listed = inventory(
        request.getfixturevalue(kind),
        advanced_fields=advanced,
        identify_unknown_by="PartitionName",
        keyed_groups=[{"prefix": "state", "key": "PartitionState"}, {"prefix": "type", "key": "PartitionType"}],
        groups={"linux": "'Linux' in OperatingSystemVersion", "aix": "'7.2' in OperatingSystemVersion"},
        compose={"number": "PartitionID | int", "memory": "CurrentMemory | int", "where": "SystemName"},
    )
    assert listed.groups == {
        "Kiruna 9": ["west"],
        "linux": ["west"],
        "state_running": ["west"],
        "type_AIX_Linux": ["west"],
        "unknowns": ["East End", "Management"],
    }, "unknown is what has no address"
    west = {"ansible_host": "10.99.0.8", "number": 8, "memory": 32, "where": "Kiruna 9"}
    assert listed.variables == {"west": west}


@ADVANCED
def test_the_plugin_leaves_out_what_it_is_told_to(
    inventory: Callable[..., Inventory], shared_lab: Lab, advanced: bool
) -> None:
    def hosts(**options: object) -> list[str]:
        found = inventory(shared_lab, advanced_fields=advanced, identify_unknown_by="PartitionName", **options)
        return sorted({host for group in found.groups.values() for host in group})

    assert hosts(filters={"PartitionState": "running", "PartitionType": "AIX/Linux"}) == ["Management", "west"]
    assert hosts(filters={"PartitionType": "Virtual IO Server"}) == []
    assert hosts(exclude_ip=["10.99.0.8"], exclude_lpar=["East End"]) == ["Management"]
    assert hosts(exclude_system=["Kiruna 9"]) == []


def test_the_plugin_has_the_system_for_a_host(inventory: Callable[..., Inventory], shared_lab: Lab) -> None:
    """One property that is missing, and the plugin leaves out all that was to be made of the system."""
    listed = inventory(
        shared_lab,
        group_lpars_by_managed_system=False,
        system_filters={"State": "operating"},
        system_keyed_groups=[{"prefix": "type", "key": "SystemType"}],
        system_groups={"able": "MaximumPartitions > 1"},
        system_compose={"firmware": "SystemFirmware"},
    )
    assert listed.groups == {
        "ManagedSystems": ["Kiruna 9"],
        "able": ["Kiruna 9"],
        "type_fsp": ["Kiruna 9"],
        "ungrouped": ["west"],
    }
    assert listed.variables["Kiruna 9"]["firmware"].startswith("pvnet ")


def test_the_inventory_file_of_the_document(listed: Callable[..., Inventory], shared_lab: Lab) -> None:
    (text,) = re.findall(r"^```yaml ansible\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert text.count("localhost:12443") == 1
    found = listed(
        text.replace("localhost:12443", host_of(shared_lab)),
        NOVALINK_PASSWORD_FILE=shared_lab.endpoint["password_file"],
    )
    assert found.groups == {
        "Kiruna 9": ["west"],
        "state_running": ["west"],
        "unknowns": ["East End", "Management"],
    }
    assert found.variables["west"]["ansible_host"] == "10.99.0.8"


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
    assert (system["SystemType"], system["SystemFirmware"].split()[0]) == ("fsp", "pvnet"), "it groups systems by them"
    assert plugin.get("/uom/Group")[0] == 204
    of_system = f"/uom/ManagedSystem/{SYSTEM}"
    parts = {part["PartitionName"]: part for part in plugin.quick(f"{of_system}/LogicalPartition/quick/All")}
    assert sorted(parts) == ["East End", "Management", "west"]
    east = parts["East End"]
    assert (east["UUID"], east["PartitionID"], east["PartitionType"]) == (EAST, 7, "AIX/Linux")
    assert east["AssociatedManagedSystem"] == f"https://{host_of(shared_lab)}/rest/api/uom/ManagedSystem/{SYSTEM}"
    assert (east["PartitionState"], parts["west"]["PartitionState"]) == ("not activated", "running")
    addresses = (east["ResourceMonitoringIPAddress"], parts["west"]["ResourceMonitoringIPAddress"])
    assert addresses == (None, "10.99.0.8"), "what has one is a host to Ansible"
    assert plugin.quick(f"{of_system}/VirtualIOServer/quick/All") == []
    kind = "application/vnd.ibm.powervm.uom+xml; type=LogicalPartition"
    status, body = plugin.get(f"{of_system}/LogicalPartition?group=Advanced", kind)
    assert status == 200
    names = [element.text for element in ET.fromstring(body).iterfind(".//{*}PartitionName")]
    assert sorted(filter(None, names)) == ["East End", "Management", "west"]
    kind = "application/vnd.ibm.powervm.uom+xml; type=VirtualIOServer"
    assert plugin.get(f"{of_system}/VirtualIOServer?group=Advanced", kind)[0] == 204
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
