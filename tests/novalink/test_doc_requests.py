"""What clients send: the command that it means, or an error that names the field, never both and never a surprise."""

from __future__ import annotations

from contextlib import suppress

import novalink_doc_rig as rig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.novalink.atom import entry
from pvnet.novalink.errors import RequestError
from pvnet.novalink.job_documents import job_template
from pvnet.novalink.job_requests import JobRequest, job_request, power_command
from pvnet.novalink.logon_requests import logon_request
from pvnet.novalink.markup import Element, serialize
from pvnet.novalink.names import UOM_NS, WEB_NS, switch_path
from pvnet.novalink.network_documents import client_network_adapter
from pvnet.novalink.network_requests import create_adapter, create_switch, modify_adapter
from pvnet.novalink.partition_documents import logical_partition
from pvnet.novalink.partition_requests import create_partition, modify_partition
from pvnet.novalink.request_body import IGNORED_MAX
from pvnet.pb.v1.management_pb2 import (
    CreateAdapter,
    CreatePartition,
    CreateSwitch,
    ModifyAdapter,
    ModifyPartition,
    PowerOff,
    PowerOn,
    Processors,
)

M = "PartitionMemoryConfiguration"
P = "PartitionProcessorConfiguration"
SHARED = f"{P}/SharedProcessorConfiguration"
DEDICATED = f"{P}/DedicatedProcessorConfiguration"
NEW = (rig.field("PartitionName", "new one"), rig.field(f"{M}/DesiredMemory", "1024"))
UNITS = rig.field(f"{SHARED}/DesiredProcessingUnits", "1.00")
VIRTUAL = rig.field(f"{SHARED}/DesiredVirtualProcessors", "2")


def _logon(inside: str) -> bytes:
    return f'<LogonRequest xmlns="{WEB_NS}" schemaVersion="V1_0"><UserID>me</UserID>{inside}</LogonRequest>'.encode()


def test_log_on() -> None:
    asked = logon_request(_logon("<Password> p&amp;w </Password>"))
    assert (asked.user, asked.password) == ("me", " p&w ")
    assert "p&w" not in repr(asked)
    asked = logon_request(_logon("<GenerateX-API-SessionFile>true</GenerateX-API-SessionFile>"))
    assert (asked.user, asked.password) == ("me", None)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no body, expected a LogonRequest"),
        (b"<a>", "no element found"),
        (b"<a/>", "'a' in the namespace '', expected LogonRequest"),
        (_logon(""), "either a Password, or GenerateX-API-SessionFile"),
        (_logon("<Password>x</Password><GenerateX-API-SessionFile>true</GenerateX-API-SessionFile>"), "either"),
        (_logon("<GenerateX-API-SessionFile>false</GenerateX-API-SessionFile>"), "either"),
        (_logon(f"<Password>{'x' * 2000}</Password>"), "Password: more than 1024"),
        (_logon("<Password>x</Password>").replace(b"me", b""), "UserID"),
    ],
)
def test_bad_log_on(data: bytes, what: str) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        logon_request(data)
    assert caught.value.status == 400


def _job(*parameters: tuple[str, str]) -> bytes:
    content = job_template("LogicalPartition", "PowerOff").content
    added = tuple(
        Element(
            WEB_NS,
            "JobParameter",
            children=(Element(WEB_NS, "ParameterName", text=k), Element(WEB_NS, "ParameterValue", text=v)),
        )
        for k, v in parameters
    )
    children = tuple(
        Element(c.namespace, c.name, c.attributes, c.text, c.children + added) if c.name == "JobParameters" else c
        for c in content.children
    )
    return serialize(Element(content.namespace, content.name, content.attributes, "", children))


def test_job() -> None:
    asked = job_request(_job(("operation", "shutdown"), ("immediate", "true")), "LogicalPartition", "PowerOff")
    assert asked == JobRequest("PowerOff", "LogicalPartition", {"operation": "shutdown", "immediate": "true"})
    template = entry(job_template("LogicalPartition", "PowerOn"), rig.BASE)
    assert job_request(template, "LogicalPartition", "PowerOn").parameters == {}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (_job(("a", "b"), ("a", "c")), "'a': more than once"),
        (_job(("", "b")), "name and value"),
        (_job(("a", "b" * 2000)), "name and value"),
        (_job(*((str(n), "") for n in range(100))), "more than 64"),
        (_job().replace(b"PowerOff", b"PowerOn"), "OperationName: 'PowerOn', expected 'PowerOff'"),
        (_job().replace(b"LogicalPartition", b"Cluster"), "GroupName: 'Cluster', expected 'LogicalPartition'"),
    ],
)
def test_bad_job(data: bytes, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        job_request(data, "LogicalPartition", "PowerOff")


@pytest.mark.parametrize(
    ("parameters", "mode", "restart"),
    [
        ({}, PowerOff.Mode.NORMAL, False),
        ({"operation": "shutdown", "restart": "true"}, PowerOff.Mode.NORMAL, True),
        ({"operation": "shutdown", "immediate": "True"}, PowerOff.Mode.IMMEDIATE, False),
        ({"operation": "osshutdown"}, PowerOff.Mode.GUEST, False),
        ({"operation": "osshutdown", "immediate": "true"}, PowerOff.Mode.GUEST, False),
        ({"operation": "dumprestart"}, PowerOff.Mode.IMMEDIATE, True),
    ],
)
def test_power_off(parameters: dict[str, str], mode: PowerOff.Mode.ValueType, restart: bool) -> None:
    made = power_command(JobRequest("PowerOff", "LogicalPartition", {**parameters, "odd": "x"}), "lpar2")
    assert made.command == PowerOff(name="lpar2", mode=mode, restart=restart)
    assert made.ignored == ("odd",)


def test_power_on() -> None:
    made = power_command(JobRequest("PowerOn", "LogicalPartition", {"bootmode": "norm"}), "lpar2")
    assert (made.command, made.ignored) == (PowerOn(name="lpar2"), ("bootmode",))


@pytest.mark.parametrize(
    ("operation", "parameters", "what"),
    [
        ("PowerOff", {"operation": "explode"}, "operation: 'explode', expected shutdown, osshutdown or dumprestart"),
        ("PowerOff", {"immediate": "perhaps"}, "immediate: 'perhaps', expected true or false"),
        ("Reboot", {}, "'Reboot', expected PowerOn or PowerOff"),
    ],
)
def test_bad_power(operation: str, parameters: dict[str, str], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        power_command(JobRequest(operation, "LogicalPartition", parameters), "lpar2")


def test_create_partition() -> None:
    uuid = "5DDDDDDD-0000-4000-8000-00000000000D"
    more = (
        rig.field("PartitionID", "9"),
        rig.field("PartitionType", "OS400"),
        rig.field("PartitionUUID", uuid),
        rig.field(f"{M}/MaximumMemory", "2048"),
        rig.field("AvailabilityPriority", "127"),
        rig.field("PartitionNVRAM", "zz"),
    )
    made = create_partition(rig.document("LogicalPartition", *NEW, *more, UNITS, VIRTUAL), rig.view())
    assert made.command == CreatePartition(
        label="new one",
        lpar_id=9,
        uuid=uuid.lower(),
        memory_bytes=1024 * rig.MIB,
        max_memory_bytes=2048 * rig.MIB,
        type="os400",
        processors=Processors(units=100, virtual=2, uncapped=True, weight=128),
    )
    assert made.ignored == ("PartitionNVRAM",)  # a priority of 127 is what there will be
    least = create_partition(rig.document("LogicalPartition", *NEW), rig.view()).command
    assert least == CreatePartition(label="new one", memory_bytes=1024 * rig.MIB, type="aix-linux")


def test_create_partition_with_processors_of_its_own() -> None:
    fields = (
        rig.field(f"{P}/HasDedicatedProcessors", "true"),
        rig.field(f"{DEDICATED}/DesiredProcessors", "3"),
        rig.field(f"{DEDICATED}/MaximumProcessors", "4"),
        rig.field(f"{P}/SharingMode", "keep idle procs"),
    )
    command = create_partition(rig.document("LogicalPartition", *NEW, *fields), rig.view()).command
    assert command.processors == Processors(
        dedicated=True, units=300, max_units=400, virtual=3, min_virtual=3, max_virtual=4, uncapped=True, weight=128
    )


NAME = NEW[0]


@pytest.mark.parametrize(
    ("fields", "status", "what"),
    [
        ((NEW[1],), 400, "PartitionName: nothing"),
        ((NAME,), 400, "DesiredMemory: nothing"),
        ((*NEW, NAME), 400, "PartitionName: given 2 times"),
        ((rig.field("PartitionName", "mp"), NEW[1]), 409, "there is a partition 'mp'"),
        ((rig.field("PartitionName", "x" * 32), NEW[1]), 400, "PartitionName: .*1 to 31 printable characters"),
        ((rig.field("PartitionName"), NEW[1]), 400, "PartitionName: '', expected 1 to 31"),
        ((NAME, rig.field(f"{M}/DesiredMemory", "many")), 400, "DesiredMemory: 'many', expected a number from 1"),
        ((NAME, rig.field(f"{M}/DesiredMemory", "0")), 400, "DesiredMemory: '0'"),
        ((NAME, rig.field(f"{M}/DesiredMemory", "1024.5")), 400, "DesiredMemory: '1024.5'"),
        ((*NEW, rig.field("PartitionID", "-1")), 400, "PartitionID: '-1'"),
        ((*NEW, rig.field("PartitionType", "Virtual IO Server")), 400, "PartitionType: .*AIX/Linux or OS400"),
        ((*NEW, rig.field("PartitionUUID", "x")), 400, "PartitionUUID: 'x', expected a UUID"),
        ((*NEW, UNITS), 400, "DesiredVirtualProcessors: nothing"),
        ((*NEW, VIRTUAL), 400, "DesiredProcessingUnits: nothing"),
        ((*NEW, UNITS, VIRTUAL, rig.field(f"{SHARED}/UncappedWeight", "256")), 400, "UncappedWeight: '256'"),
        ((*NEW, UNITS, VIRTUAL, rig.field(f"{SHARED}/SharedProcessorPoolID", "1")), 400, "PoolID: '1', expected 0"),
        ((*NEW, UNITS, VIRTUAL, rig.field(f"{P}/SharingMode", "greedy")), 400, "capped or uncapped"),
        ((*NEW, UNITS, VIRTUAL, rig.field(f"{SHARED}/MinimumProcessingUnits", "2")), 400, "minimum <= desired"),
        ((*NEW, VIRTUAL, rig.field(f"{SHARED}/DesiredProcessingUnits", "0.125")), 400, "at most two decimals"),
        ((*NEW, rig.field(f"{P}/HasDedicatedProcessors", "true")), 400, "DesiredProcessors: nothing"),
        ((*NEW, rig.field(f"{P}/HasDedicatedProcessors", "maybe")), 400, "true or false"),
    ],
)
def test_bad_create_partition(fields: tuple[str, ...], status: int, what: str) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        create_partition(rig.document("LogicalPartition", *fields), rig.view())
    assert caught.value.status == status


def _changed(**texts: str) -> bytes:
    seen = rig.view()
    content = logical_partition(seen, rig.guest_of(seen)).content
    for path, text in texts.items():
        content = rig.with_text(content, path, text)
    return serialize(content, "http://another.name:1")


def _modify(data: bytes) -> tuple[ModifyPartition | None, tuple[str, ...]]:
    seen = rig.view()
    made = modify_partition(data, seen, rig.guest_of(seen))
    return made.command, made.ignored


def test_what_was_read_changes_nothing() -> None:
    seen = rig.view()
    for p in seen.partitions:
        made = modify_partition(serialize(logical_partition(seen, p).content, rig.BASE), seen, p)
        assert (made.command, made.ignored) == (None, ())
        made = modify_partition(entry(logical_partition(seen, p), rig.BASE), seen, p)
        assert (made.command, made.ignored) == (None, ())


@pytest.mark.parametrize(
    ("texts", "command"),
    [
        ({"PartitionName": "other"}, {"label": "other"}),
        ({"PartitionName": " Zwölf &amp; "}, {"label": "Zwölf &amp;"}),
        ({f"{M}/DesiredMemory": "96"}, {"memory_bytes": 96 * rig.MIB}),
        ({f"{M}/DesiredMemory": "64.0"}, {}),
        (
            {f"{M}/MinimumMemory": "16", f"{M}/MaximumMemory": "256"},
            {"min_memory_bytes": 16 * rig.MIB, "max_memory_bytes": 256 * rig.MIB},
        ),
        ({"IsManagementPartition": "False", f"{SHARED}/DesiredProcessingUnits": "0.50"}, {}),
    ],
)
def test_modify_partition(texts: dict[str, str], command: dict[str, object]) -> None:
    made, ignored = _modify(_changed(**texts))
    expected = ModifyPartition(name="lpar2", if_revision=71, **command)  # type: ignore[arg-type]
    assert made == (expected if command else None)
    assert ignored == ()


def test_modify_processors() -> None:
    units, virtual = f"{SHARED}/DesiredProcessingUnits", f"{SHARED}/DesiredVirtualProcessors"
    made, _ = _modify(_changed(**{units: "1.5", virtual: "2", f"{P}/SharingMode": "capped"}))
    assert made is not None
    assert made.processors == Processors(
        units=150, min_units=10, max_units=200, virtual=2, min_virtual=1, max_virtual=4, weight=128
    )
    assert not made.HasField("memory_bytes")


@pytest.mark.parametrize(("units", "virtual", "expected"), [("1.5", "1", "0.05 to 1"), ("0.1", "3", "0.15 to 3")])
def test_units_that_virtual_processors_cannot_have(units: str, virtual: str, expected: str) -> None:
    fields = {f"{SHARED}/DesiredProcessingUnits": units, f"{SHARED}/DesiredVirtualProcessors": virtual}
    with pytest.raises(
        RequestError, match=f"{SHARED}/DesiredProcessingUnits: '{units}', expected {expected}: "
    ) as caught:
        _modify(_changed(**fields))
    assert caught.value.status == 400
    both = (rig.field(path, text) for path, text in fields.items())
    with pytest.raises(RequestError, match=f"DesiredProcessingUnits: '{units}', expected {expected}: "):
        create_partition(rig.document("LogicalPartition", *NEW, *both), rig.view())


def test_from_shared_to_dedicated_processors() -> None:
    # As pypowervm does it: a new configuration in place of the old one.
    new = (rig.field(f"{P}/HasDedicatedProcessors", "true"), rig.field(f"{DEDICATED}/DesiredProcessors", "2"))
    made, ignored = _modify(rig.document("LogicalPartition", *new))
    assert made is not None
    assert made.processors == Processors(
        dedicated=True, units=200, virtual=2, min_virtual=2, max_virtual=2, uncapped=True, weight=128
    )
    assert ignored == ()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("PartitionState", "running"),
        ("PartitionID", "7"),
        ("PartitionUUID", rig.MP),
        ("KeylockPosition", "manual"),
        (f"{M}/CurrentMemory", "1"),
        ("PartitionIOConfiguration/MaximumVirtualIOSlots", "200"),
    ],
)
def test_what_cannot_be_changed_is_named(path: str, text: str) -> None:
    with pytest.raises(RequestError, match=f"{path}: '{text}', but it is '.*' and cannot be changed") as caught:
        _modify(_changed(**{path: text}))
    assert (caught.value.status, caught.value.reason) == (400, "Read-only field")


def test_links_are_compared_without_host_and_cannot_be_changed() -> None:
    assert _modify(_changed()) == (None, ())
    moved = _changed().replace(rig.SYSTEM_UUID.encode(), b"c0ffee00-0000-4000-8000-00000000000b")
    with pytest.raises(RequestError, match=r"AssociatedManagedSystem: .*cannot be changed"):
        _modify(moved)


def test_unknown_elements_are_told() -> None:
    extra = (rig.field("PartitionNVRAM", "x"), rig.field("Deep/Er", "y"), '<z xmlns="urn:z"/>', NAME)
    made, ignored = _modify(rig.document("LogicalPartition", *extra))
    assert made == ModifyPartition(name="lpar2", if_revision=71, label="new one")
    assert ignored == ("PartitionNVRAM", "Deep/Er", "z")
    many = (rig.field(f"N{n}") for n in range(1000))
    assert len(_modify(rig.document("LogicalPartition", *many))[1]) == IGNORED_MAX


def test_a_name_that_another_has() -> None:
    with pytest.raises(RequestError, match="there is a partition 'ibmi'") as caught:
        _modify(_changed(PartitionName="ibmi"))
    assert caught.value.status == 409


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no body"),
        (b"<", "line 1, column"),
        (f'<ManagedSystem xmlns="{UOM_NS}"/>'.encode(), "'ManagedSystem' in the namespace .*expected LogicalPartition"),
        (b"<LogicalPartition/>", "in the namespace ''"),
        (b'<entry xmlns="http://www.w3.org/2005/Atom"/>', "0 elements in its content"),
        (
            b'<entry xmlns="http://www.w3.org/2005/Atom"><content><a/><b/></content></entry>',
            "2 elements in its content",
        ),
        (rig.document("LogicalPartition", rig.link("ClientNetworkAdapters", "http://[")), "expected a link"),
    ],
)
def test_documents_that_are_none(data: bytes, what: str) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        _modify(data)
    assert caught.value.status == 400


SWITCH_1 = f"https://x:1{switch_path(rig.view().system, rig.view().switches[1])}"


def _create_adapter(*fields: str) -> tuple[CreateAdapter, tuple[str, ...]]:
    seen = rig.view()
    made = create_adapter(rig.document("ClientNetworkAdapter", *fields), seen, rig.guest_of(seen))
    return made.command, made.ignored


def test_create_adapter() -> None:
    made, ignored = _create_adapter(
        rig.field("UseNextAvailableHighSlotID", "true"),
        rig.field("MACAddress", "02AABBCCDDEE"),
        rig.field("PortVLANID", "22"),
        rig.field("TaggedVLANSupported", "false"),
        rig.field("OvsBridge", "br-int"),
        rig.link("AssociatedVirtualSwitch", f"{SWITCH_1}?group=None"),
    )
    assert made == CreateAdapter(partition="lpar2", slot=4, mac="02:aa:bb:cc:dd:ee", vlan=22, switch="other")
    assert ignored == ("OvsBridge",)
    assert _create_adapter(rig.field("VirtualSlotNumber", "7")) == (CreateAdapter(partition="lpar2", slot=7), ())
    assert _create_adapter() == (CreateAdapter(partition="lpar2"), ())


def test_the_next_slot() -> None:
    """The high one is above all that are used; the other one is the platform's choice."""
    seen = rig.view()
    mp, guest = seen.partitions[:2]
    high = rig.document("ClientNetworkAdapter", rig.field("UseNextAvailableHighSlotID", "true"))
    any_one = rig.document("ClientNetworkAdapter", rig.field("UseNextAvailableSlotID", "true"))
    assert create_adapter(high, seen, mp).command.slot == 2
    assert create_adapter(any_one, seen, guest).command.slot == 0
    guest.adapters[0].slot = 65535
    assert create_adapter(high, seen, guest).command.slot == 0


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ((rig.field("MACAddress", "02"),), "MACAddress: '02', expected 12 hexadecimal digits"),
        ((rig.field("MACAddress", "02:AABBCCDDEE"),), "MACAddress"),
        ((rig.field("PortVLANID", "4095"),), "PortVLANID: '4095', expected a number from 1 to 4094"),
        ((rig.field("PortVLANID", "0"),), "PortVLANID"),
        ((rig.field("VirtualSlotNumber", "1"),), "VirtualSlotNumber: '1'"),
        ((rig.field("VirtualSlotNumber", "3"), rig.field("UseNextAvailableSlotID", "true")), "UseNextAvailableSlotID"),
        ((rig.field("TaggedVLANIDs", "5 6"),), "TaggedVLANIDs: '5 6', expected none"),
        ((rig.field("TrunkPriority", "1"),), "TrunkPriority"),
        ((rig.link("AssociatedVirtualSwitch", "http://x/rest/api/uom/VirtualSwitch/1"),), "link of a VirtualSwitch"),
        ((rig.link("AssociatedVirtualSwitch", SWITCH_1.replace("VirtualSwitch", "Other")),), "link of a VirtualSwitch"),
    ],
)
def test_bad_create_adapter(fields: tuple[str, ...], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        _create_adapter(*fields)


def _modify_adapter(replace: dict[str, str]) -> tuple[ModifyAdapter | None, tuple[str, ...]]:
    seen = rig.view()
    guest = rig.guest_of(seen)
    adapter = guest.adapters[0]
    data = serialize(client_network_adapter(seen, guest, adapter).content, rig.BASE)
    for old, new in replace.items():
        assert old.encode() in data
        data = data.replace(old.encode(), new.encode())
    made = modify_adapter(data, seen, guest, adapter)
    return made.command, made.ignored


def test_modify_adapter() -> None:
    assert _modify_adapter({}) == (None, ())
    assert _modify_adapter({"02000000000A": "02000000000a"}) == (None, ())
    vlan = {"<PortVLANID>1<": "<PortVLANID>33<"}
    assert _modify_adapter(vlan)[0] == ModifyAdapter(partition="lpar2", slot=2, if_revision=72, vlan=33)
    everything = {
        **vlan,
        "02000000000A": "020000ABCDEF",
        f"VirtualSwitch/{rig.SWITCHES[0]}": f"VirtualSwitch/{rig.SWITCHES[1]}",
    }
    assert _modify_adapter(everything)[0] == ModifyAdapter(
        partition="lpar2", slot=2, if_revision=72, vlan=33, mac="02:00:00:ab:cd:ef", switch="other"
    )


@pytest.mark.parametrize(
    ("replace", "what"),
    [
        ({"<VirtualSlotNumber>2<": "<VirtualSlotNumber>5<"}, "VirtualSlotNumber: '5', but it is '2'"),
        ({"<TaggedVLANIDs/>": "<TaggedVLANIDs>4</TaggedVLANIDs>"}, "TaggedVLANIDs: '4'"),
        ({"<Enabled>true<": "<Enabled>false<"}, "Enabled: 'false', but it is 'true'"),
        ({"<PortVLANID>1<": "<PortVLANID>x<"}, "PortVLANID: 'x'"),
        ({f"VirtualSwitch/{rig.SWITCHES[0]}": f"VirtualSwitch/{rig.MP}"}, "link of a VirtualSwitch"),
    ],
)
def test_bad_modify_adapter(replace: dict[str, str], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        _modify_adapter(replace)


def test_create_switch() -> None:
    fields = (rig.field("SwitchMode", "Veb"), rig.field("SwitchName", "NEW"), rig.field("VirtualNetworks"))
    assert create_switch(rig.document("VirtualSwitch", *fields), rig.view()).command == CreateSwitch(label="NEW")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ((), "SwitchName: nothing"),
        ((rig.field("SwitchName", "ETHERNET0"),), "there is a switch 'ETHERNET0'"),
        ((rig.field("SwitchName", ""),), "SwitchName: ''"),
        ((rig.field("SwitchName", "x"), rig.field("SwitchMode", "Vepa")), "SwitchMode: 'Vepa', expected Veb"),
    ],
)
def test_bad_create_switch(fields: tuple[str, ...], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        create_switch(rig.document("VirtualSwitch", *fields), rig.view())


PATHS = st.sampled_from(
    [
        "PartitionName",
        "PartitionID",
        "PartitionType",
        "PartitionState",
        "PartitionUUID",
        *(f"{M}/{word}Memory" for word in ("Desired", "Minimum", "Maximum", "Current")),
        f"{P}/HasDedicatedProcessors",
        f"{P}/SharingMode",
        *(
            f"{SHARED}/{word}{what}"
            for word in ("Desired", "Minimum")
            for what in ("ProcessingUnits", "VirtualProcessors")
        ),
        f"{DEDICATED}/DesiredProcessors",
        "Nonsense",
    ]
)
TEXTS = st.sampled_from(["", "1", "0.5", "64", "true", "capped", "NaN", "1e9", "-1", "9" * 40, "é", "٣", "1_0", "sNaN"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(PATHS, TEXTS), max_size=8))
def test_any_fields_are_a_command_or_an_error(fields: list[tuple[str, str]]) -> None:
    data = rig.document("LogicalPartition", *(rig.field(path, text) for path, text in fields))
    seen = rig.view()
    with suppress(RequestError):
        made = modify_partition(data, seen, rig.guest_of(seen)).command
        assert made is None or made != ModifyPartition(name="lpar2", if_revision=71)
    with suppress(RequestError):
        created = create_partition(data, seen).command
        assert created.label
        assert created.memory_bytes
    assert seen == rig.view()
