"""Resources, entries and feeds: what the platform's messages look like in REST."""

from __future__ import annotations

from collections.abc import Callable

import novalink_doc_rig as rig
import pytest

from pvnet.novalink.atom import Resource, entry, feed, timestamp
from pvnet.novalink.errors import http_error
from pvnet.novalink.event_documents import Event, event_resource
from pvnet.novalink.job_documents import JobState, already_off, job_response, job_template
from pvnet.novalink.job_requests import JobRequest
from pvnet.novalink.logon_documents import logon_response
from pvnet.novalink.markup import Element, parse
from pvnet.novalink.names import ATOM_NS, STATES, UOM_NS, WEB_NS
from pvnet.novalink.network_documents import client_network_adapter, virtual_network, virtual_switch
from pvnet.novalink.partition_documents import logical_partition, persistent_memory_volume
from pvnet.novalink.system_documents import managed_system
from pvnet.novalink.view import View
from pvnet.pb.v1.management_pb2 import Partition


def _all(seen: View) -> list[Resource]:
    return [
        managed_system(seen),
        managed_system(seen, "hmc"),
        *(logical_partition(seen, p) for p in seen.partitions),
        *(client_network_adapter(seen, p, a) for p in seen.partitions for a in p.adapters),
        *(virtual_switch(seen, s) for s in seen.switches),
        *(virtual_network(seen, s, vlan) for s, vlan in seen.networks()),
        *(persistent_memory_volume(seen, p, v) for p in seen.partitions for v in p.scm),
    ]


def test_rules_of_every_document() -> None:
    for resource in _all(rig.view()):
        data = entry(resource, rig.BASE, 1.5)
        assert data.isascii()
        assert not data.startswith(b"<?xml")  # pypowervm parses text, which must have no declaration
        root = parse(data)
        assert (root.namespace, root.name) == (ATOM_NS, "entry")
        assert root.value("id") == resource.uuid
        assert root.value("published") == "1970-01-01T00:00:01.500Z"
        content = rig.content_of(data)
        assert (content.namespace, content.name) == (UOM_NS, resource.kind)
        assert content.value("Metadata", "Atom", "AtomID") == resource.uuid
        assert content.attributes["schemaVersion"]
        for element in content.walk():
            assert element.namespace == UOM_NS
            if "href" in element.attributes:
                assert element.attributes["href"].startswith(f"{rig.BASE}/rest/api/uom/")
            elif element.children and all(child.name != "link" for child in element.children):
                assert element.name in {"Metadata", "Atom"} or element.child("Metadata"), element.name


def test_a_feed_has_its_link_first_and_etags() -> None:
    seen = rig.view()
    partitions = [logical_partition(seen, p) for p in seen.partitions]
    path = "/rest/api/uom/LogicalPartition?group=None"
    root = parse(feed(path, partitions, rig.BASE))
    names = [child.name for child in root.children]
    assert names.index("link") < names.index("entry")
    assert names.count("entry") == 3
    assert root.child("link") == Element(ATOM_NS, "link", {"rel": "SELF", "href": rig.BASE + path})
    entries = [child for child in root.children if child.name == "entry"]
    etags = [child.text for one in entries for child in one.children if child.name == "etag"]
    assert etags == ["70", "71", "73"] == [resource.etag for resource in partitions]
    assert parse(feed(path, [], rig.BASE)).child("entry") is None


def test_system() -> None:
    seen = rig.view()
    resource = managed_system(seen)
    assert resource.path == f"/rest/api/uom/ManagedSystem/{rig.SYSTEM_UUID}"
    value = resource.content.value
    assert value("SystemName") == "lab one"
    assert value("State") == "operating"
    assert value("MachineTypeModelAndSerialNumber", "SerialNumber") == "PVNET01"
    memory = "AssociatedSystemMemoryConfiguration"
    assert value(memory, "InstalledSystemMemory") == "65536"
    assert value(memory, "CurrentAvailableSystemMemory") == "61440"
    assert value(memory, "MemoryRegionSize") == "16"
    processors = "AssociatedSystemProcessorConfiguration"
    assert value(processors, "InstalledSystemProcessorUnits") == "16.5"
    assert value(processors, "CurrentAvailableSystemProcessorUnits") == "15.05"
    assert value("AssociatedPersistentMemoryConfiguration", "CurrentPersistentMemoryVolumes") == "1"
    # NovaLink has no list of partitions, an HMC has.
    assert resource.content.child("AssociatedLogicalPartitions") is None
    listed = managed_system(seen, "hmc").content.child("AssociatedLogicalPartitions")
    assert listed is not None
    assert [link.attributes["href"].rpartition("/")[2] for link in listed.children] == [
        uuid.upper() for uuid in (rig.MP, rig.GUEST, rig.IBMI)
    ]


def test_partition() -> None:
    seen = rig.view()
    value = logical_partition(seen, rig.guest_of(seen)).content.value
    assert value("PartitionName") == "Zwölf & <Co>"
    assert value("PartitionUUID") == rig.GUEST.upper()
    assert value("PartitionState") == "not activated"
    assert value("PartitionType") == "AIX/Linux"
    assert value("IsManagementPartition") == "false"
    assert value("ResourceMonitoringIPAddress") == "10.0.0.2"
    memory = "PartitionMemoryConfiguration"
    sizes = [value(memory, name) for name in ("DesiredMemory", "MinimumMemory", "MaximumMemory", "RuntimeMemory")]
    assert sizes == ["64", "32", "128", "0"]
    shared = ("PartitionProcessorConfiguration", "SharedProcessorConfiguration")
    assert value(*shared, "DesiredProcessingUnits") == "0.5"
    assert value(*shared, "MaximumProcessingUnits") == "2"
    assert value(*shared, "MaximumVirtualProcessors") == "4"
    mp = logical_partition(seen, seen.partitions[0]).content.value
    assert (mp("PartitionName"), mp("PartitionState"), mp("ResourceMonitoringControlState")) == (
        "mp",
        "running",
        "active",
    )
    assert (mp(memory, "CurrentMemory"), mp(memory, "RuntimeMemory")) == ("256", "256")
    ibmi = logical_partition(seen, seen.partitions[2]).content.value
    assert (ibmi("PartitionState"), ibmi("PartitionType")) == ("error", "OS400")
    assert ibmi("ReferenceCodeFull") == "its process ended: signal 9"
    dedicated = ("PartitionProcessorConfiguration", "DedicatedProcessorConfiguration")
    assert [ibmi(*dedicated, f"{word}Processors") for word in ("Minimum", "Desired", "Maximum")] == ["1", "2", "4"]


@pytest.mark.parametrize("state", Partition.State.values())
def test_every_state_has_a_word(state: Partition.State.ValueType) -> None:
    seen = rig.view()
    guest = rig.guest_of(seen)
    guest.state = state
    assert logical_partition(seen, guest).content.value("PartitionState") == STATES[state]


def test_adapter_switch_and_network() -> None:
    seen = rig.view()
    guest = rig.guest_of(seen)
    first, second = (client_network_adapter(seen, guest, a) for a in guest.adapters)
    value = first.content.value
    assert value("MACAddress") == "02000000000A"
    assert (value("VirtualSlotNumber"), value("PortVLANID"), value("VirtualSwitchID")) == ("2", "1", "0")
    assert value("LocationCode") == "U8247.22L.PVNET01-V2-C2"
    assert (value("IPAddress"), value("SubnetMask")) == ("10.0.0.2", "255.255.255.0")
    assert first.content.child("TrunkPriority") is None
    assert (second.content.value("PortVLANID"), second.content.value("IPAddress")) == ("22", None)
    partition = logical_partition(seen, guest).content.child("ClientNetworkAdapters")
    assert partition is not None
    assert [link.attributes["href"] for link in partition.children] == [first.path, second.path]

    lan = virtual_switch(seen, seen.switches[0])
    assert (lan.content.value("SwitchName"), lan.content.value("SwitchID")) == ("ETHERNET0", "0")
    used = first.content.child("AssociatedVirtualSwitch")
    assert used is not None
    assert used.children[0].attributes["href"] == lan.path
    assert [(s.name, vlan) for s, vlan in seen.networks()] == [("lan", 1), ("other", 1), ("other", 22)]
    network = virtual_network(seen, *seen.networks()[2])
    assert network.content.value("NetworkVLANID") == "22"
    assert network.content.value("VswitchID") == second.content.value("VirtualSwitchID")
    switch = network.content.child("AssociatedSwitch")
    assert switch is not None
    assert switch.attributes["href"] == virtual_switch(seen, seen.switches[1]).path


def test_switches_keep_the_numbers_that_they_are_given() -> None:
    seen = rig.view()
    numbered = View(seen.system, seen.partitions, seen.switches, {"lan": 4, "other": 7})
    first, second = (client_network_adapter(numbered, rig.guest_of(seen), a) for a in rig.guest_of(seen).adapters)
    assert (first.content.value("VirtualSwitchID"), second.content.value("VirtualSwitchID")) == ("4", "7")
    assert virtual_switch(numbered, seen.switches[1]).content.value("SwitchID") == "7"
    assert first.etag != client_network_adapter(seen, rig.guest_of(seen), rig.guest_of(seen).adapters[0]).etag


def test_an_adapter_without_a_switch() -> None:
    seen = rig.view()
    guest = rig.guest_of(seen)
    guest.adapters[0].switch = "gone"
    assert client_network_adapter(seen, guest, guest.adapters[0]).content.child("AssociatedVirtualSwitch") is None


def test_persistent_memory() -> None:
    seen = rig.view()
    guest = rig.guest_of(seen)
    volume = persistent_memory_volume(seen, guest, guest.scm[0])
    assert volume.content.value("Size") == "128"
    assert volume.content.value("Uuid") == volume.uuid == volume.uuid.upper()
    assert seen.volume(guest, volume.uuid.lower()) is guest.scm[0]


def test_lookups_take_either_case() -> None:
    seen = rig.view()
    guest = rig.guest_of(seen)
    assert seen.partition(rig.GUEST) is seen.partition(rig.GUEST.upper()) is guest
    adapter = guest.adapters[1]
    assert seen.adapter(guest, adapter.uuid.upper()) is adapter
    assert seen.switch(rig.SWITCHES[1].upper()) is seen.switches[1]
    network = virtual_network(seen, *seen.networks()[1])
    assert seen.network(network.uuid.upper()) == seen.networks()[1]
    for nothing in (seen.partition("x"), seen.adapter(guest, "x"), seen.switch("x"), seen.network("x")):
        assert nothing is None


def _more_memory(seen: View) -> None:
    seen.system.free_memory_bytes -= rig.MIB
    seen.system.revision += 1


def _plug(seen: View) -> None:
    seen.partitions[0].adapters.add(slot=9, mac="02:00:00:00:00:0c", switch="lan", vlan=7, revision=99)
    seen.partitions[0].revision = 99


def _state(seen: View) -> None:
    guest = rig.guest_of(seen)
    guest.state, guest.revision = Partition.State.RUNNING, 98


def _nothing(seen: View) -> None:
    pass


@pytest.mark.parametrize("change", [_nothing, _more_memory, _plug, _state])
def test_an_etag_changes_with_its_document(change: Callable[[View], None]) -> None:
    """What a client keeps because of its ETag is what it would get."""
    seen, other = rig.view(), rig.view()
    change(other)
    before = {(r.kind, r.uuid, len(r.content.children)): r for r in _all(seen)}
    after = {(r.kind, r.uuid, len(r.content.children)): r for r in _all(other)}
    for key, resource in before.items():
        if key in after and after[key].content != resource.content:
            assert after[key].etag != resource.etag, key
    assert all(resource.etag.isdigit() for resource in before.values())


def test_errors() -> None:
    data = http_error(404, "/rest/api/uom/X?a=<b>", "Not found", "No partition \x00 " + "x" * 5000)
    error = rig.content_of(data)
    assert (error.namespace, error.name) == (WEB_NS, "HttpErrorResponse")
    assert error.value("HTTPStatus") == "404"
    assert error.value("RequestURI") == "/rest/api/uom/X?a=<b>"
    assert error.value("ReasonCode") == "Not found"
    assert len(error.value("Message") or "") <= 2000
    assert b"type=HttpErrorResponse" in data


def test_log_on() -> None:
    root = parse(logon_response(token="to<ken"))
    assert (root.namespace, root.name, root.value("X-API-Session")) == (WEB_NS, "LogonResponse", "to<ken")
    assert root.child("X-API-SessionFile") is None
    assert parse(logon_response(path="/a/b")).value("X-API-SessionFile") == "/a/b"
    with pytest.raises(ValueError, match="either"):
        logon_response()


def test_jobs() -> None:
    template = rig.content_of(entry(job_template("LogicalPartition", "PowerOff"), rig.BASE))
    assert template.value("RequestedOperation", "OperationName") == "PowerOff"
    assert template.value("RequestedOperation", "GroupName") == "LogicalPartition"
    assert template.child("JobParameters") is not None  # clients append to it
    request = JobRequest("PowerOff", "LogicalPartition", {"operation": "shutdown"})
    running = job_response(JobState(12, request, rig.GUEST.upper(), "RUNNING", started_ms=5))
    assert running.path == "/rest/api/uom/jobs/12"
    assert running.content.value("Status") == "RUNNING"
    assert running.content.child("Results") is None
    failed = JobState(12, request, rig.GUEST.upper(), "COMPLETED_WITH_ERROR", 5, 6, already_off("x"))
    content = rig.content_of(entry(job_response(failed), rig.BASE))
    results = content.child("Results")
    assert results is not None
    named = {one.value("ParameterName"): one.value("ParameterValue") for one in results.children}
    assert named["returnCode"] == "1"
    assert (named["result"] or "").startswith("HSCL1558")
    assert content.value("ResponseException", "Message") == named["result"]
    url = content.child("RequestURL")
    assert url is not None
    assert url.attributes["href"].endswith(f"LogicalPartition/{rig.GUEST.upper()}/do/PowerOff")


def test_events() -> None:
    happened = Event(17, "MODIFY_URI", "/rest/api/uom/LogicalPartition/X", "PartitionState")
    content = rig.content_of(entry(event_resource(happened, rig.BASE), rig.BASE))
    assert content.value("EventType") == "MODIFY_URI"
    assert content.value("EventID") == "17"
    assert content.value("EventData") == f"{rig.BASE}/rest/api/uom/LogicalPartition/X"
    assert content.value("EventDetail") == "PartitionState"
    assert event_resource(Event(1, "NEW_CLIENT"), rig.BASE).content.value("EventData") == ""


def test_timestamp() -> None:
    assert timestamp(0.25) == "1970-01-01T00:00:00.250Z"
