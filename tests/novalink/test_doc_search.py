"""Searches and quick properties."""

from __future__ import annotations

import json
from contextlib import suppress
from urllib.parse import quote

import novalink_doc_rig as rig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.novalink.errors import RequestError
from pvnet.novalink.network_documents import virtual_switch
from pvnet.novalink.partition_documents import logical_partition
from pvnet.novalink.quick import quick_all, quick_one, quick_property
from pvnet.novalink.search import CONDITIONS_MAX, search
from pvnet.runtime.topology_system import LABEL_MAX, check_label


def _found(expression: str) -> list[int]:
    seen = rig.view()
    found = search(expression, [logical_partition(seen, p) for p in seen.partitions])
    return [int(resource.content.value("PartitionID") or 0) for resource in found]


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ("(PartitionName=='mp')", [1]),
        ("(PartitionName=='nobody')", []),
        ("(PartitionName!='mp')", [2, 3]),
        ("(PartitionName=='Zw%C3%B6lf%20%26%20%3CCo%3E')", [2]),
        ("(PartitionName==%27mp%27)", [1]),
        ("%28PartitionName%3D%3D%27mp%27%29", [1]),
        ("PartitionName=='mp'", [1]),
        ("(PartitionID==2)", [2]),
        ("(PartitionID=='2')", [2]),
        ("(PartitionID!=2)", [1, 3]),
        ("(PartitionID>1)", [2, 3]),
        ("(PartitionID%3C='2')", [1, 2]),
        ("(PartitionName>'1')", []),
        ("(PartitionState=='not activated')", [2]),
        ("(IsManagementPartition=='TRUE')", [1]),
        ("(PartitionID=='1'||PartitionID=='3')", [1, 3]),
        ("(PartitionID=='1'%7C%7CPartitionID=='3'&&PartitionState=='running')", [1]),
        ("((PartitionID==1)||(PartitionID==3))&&(PartitionState=='error')", [3]),
        (" ( PartitionID == 1 ) ", [1]),
        ("(PartitionID==%270%27||PartitionName=='mp')", [1]),
        ("(PartitionID==%271%27&&PartitionName=='mp')", [1]),
        ("(PartitionID=='0')", []),
        ("(ResourceMonitoringIPAddress=='10.0.0.2')", [2]),
        ("(ResourceMonitoringIPAddress!='10.0.0.2')", [1, 3]),
    ],
)
def test_searches(expression: str, ids: list[int]) -> None:
    assert _found(expression) == ids


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("", "the end of the search"),
        ("(", "the end of the search"),
        ("(PartitionID==1", "the end of the search"),
        ("(PartitionID=1)", "'PartitionID=1\\)'"),
        ("(PartitionID==1)x", "'x'"),
        ("('a'=='b')", "\"'a'=='b'\\)\""),
        ("(PartitionID=='1)", '"PartitionID==\'1\\)"'),
        ("(" * (CONDITIONS_MAX + 1), f"more than {CONDITIONS_MAX}"),
        ("&&".join(["PartitionID==1"] * (CONDITIONS_MAX + 1)), f"more than {CONDITIONS_MAX}"),
        ("x" * 5000, "5000 characters"),
        ("(PartitionID==%000%00)", "a character that no name has"),
        ("(PartitionID=='a%00')", "a character that no name has"),
        ("(Nonsense=='1')", "no field Nonsense; there are .*PartitionName"),
    ],
)
def test_bad_searches(expression: str, what: str) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        _found(expression)
    assert caught.value.status == 400


def _label(text: str) -> bool:
    try:
        return bool(check_label(text))
    except ValueError:
        return False


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=LABEL_MAX).filter(_label))
def test_every_name_is_found_as_clients_quote_it(label: str) -> None:
    seen = rig.view()
    guest = rig.guest_of(seen)
    guest.label = label
    resources = [logical_partition(seen, guest)]
    for expression in (f"(PartitionName=='{quote(label, safe='')}')", quote(f"(PartitionName=='{label}')", safe="")):
        if "'" not in label or "=='%" in expression:
            assert search(expression, resources) == resources, expression


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="()'=!<>&|%27Pa 1", max_size=40))
def test_any_text_is_a_search_or_an_error(text: str) -> None:
    with suppress(RequestError):
        _found(text)


def test_other_kinds() -> None:
    seen = rig.view()
    switches = [virtual_switch(seen, s) for s in seen.switches]
    assert search("(SwitchName=='ETHERNET0')", switches) == switches[:1]
    assert search("(Anything=='1')", []) == []


def test_quick() -> None:
    seen = rig.view()
    everything = quick_all("LogicalPartition", seen)
    assert json.loads(json.dumps(everything)) == everything
    assert [one["PartitionState"] for one in everything] == ["running", "not activated", "error"]
    assert [one["ResourceMonitoringIPAddress"] for one in everything] == [None, "10.0.0.2", None]
    assert [one["UUID"] for one in everything] == [uuid.upper() for uuid in (rig.MP, rig.GUEST, rig.IBMI)]
    assert quick_all("VirtualIOServer", seen) == []
    (system,) = quick_all("ManagedSystem", seen)
    assert (system["UUID"], system["MTMS"], system["CurrentAvailableSystemProcessorUnits"]) == (
        rig.SYSTEM_UUID,
        "8247-22L*PVNET01",
        15.05,
    )
    assert quick_one(seen) == system
    assert (system["SystemType"], system["MemoryDefragmentationState"]) == ("fsp", "Not_In_Progress")
    assert str(system["SystemFirmware"]).startswith("pvnet ")
    assert quick_property("PartitionID", seen, rig.guest_of(seen)) == 2
    assert quick_property("SystemName", seen) == "lab one"
    with pytest.raises(RequestError, match=r"no quick property 'Nonsense'; there are .*PartitionState") as caught:
        quick_property("Nonsense", seen, rig.guest_of(seen))
    assert caught.value.status == 404


def test_quick_processors_and_links() -> None:
    """As an HMC has them: what only the other kind of processors has is null, and links are whole."""
    seen = rig.view()
    guest = rig.guest_of(seen)
    names = ("HasDedicatedProcessors", "CurrentProcessors", "CurrentProcessingUnits", "AllocatedVirtualProcessors")

    def processors() -> list[object]:
        one = quick_one(seen, guest)
        return [one[name] for name in names]

    guest.processors.dedicated = False
    guest.processors.units, guest.processors.virtual = 150, 2
    assert processors() == ["false", None, 1.5, 2]
    guest.processors.dedicated = True
    guest.processors.units = 200
    assert processors() == ["true", 2, None, None]
    base = "https://there:12443"
    link = f"{base}/rest/api/uom/ManagedSystem/{rig.SYSTEM_UUID}"
    assert quick_property("AssociatedManagedSystem", seen, guest, base) == link
    assert {one["AssociatedManagedSystem"] for one in quick_all("LogicalPartition", seen, base)} == {link}
