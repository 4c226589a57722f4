"""What an unmodified pypowervm reads: systems, partitions, adapters, switches; searches, ETags, quick properties."""

from __future__ import annotations

import re

import pytest
from interop.novalink.client import Program, StepError
from interop.novalink.lab import EAST, SYSTEM, Lab

pytestmark = pytest.mark.slow
NOBODY = "00000000-0000-4000-8000-000000000000"


def test_the_system(reader: Program) -> None:
    system = reader.system()
    assert (system["uuid"], system["name"], system["state"]) == (SYSTEM, "Kiruna 9", "operating")
    assert system["same"]
    assert system["mtms"] == "8247-22L*PVNET01"
    assert (system["memory"], system["region"]) == (4096, 16)
    assert 0 < system["free"] < system["memory"]
    assert system["processors"] == 8
    assert 0 < system["free_processors"] < 8
    assert "default" in system["modes"], "pypowervm's builder asks for it"
    assert system["etag"][0] == system["etag"][1], "of the feed and of the single entry"


def test_the_partitions(reader: Program) -> None:
    parts = reader.partitions()
    assert [(part["id"], part["name"]) for part in parts] == [(1, "Management"), (7, "East End"), (8, "west")]
    _, east, west = parts
    assert [part["management"] for part in parts] == [True, False, False]
    assert [part["state"] for part in parts] == ["running", "not activated", "running"]
    assert east["uuid"] == east["partition_uuid"] == EAST
    assert all(part["uuid"] == part["uuid"].upper() and part["system"] == SYSTEM for part in parts)
    assert east["memory"] == [32, 64, 256]
    assert (east["dedicated"], east["units"], east["virtual"]) == (False, 0.5, 2)
    assert (east["rmc"], west["rmc"]) == ("inactive", "active")
    assert all(part["type"] == "AIX/Linux" for part in parts)
    assert east["can_modify_io"]
    assert reader.partitions(of_system=True) == parts
    assert reader.partition(name="East End") == east


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"name": "East End"}, ["East End"]),
        ({"name": "east end"}, []),
        ({"name": "no/such%20one' || (1=='1"}, []),
        ({"id": 7}, ["East End"]),
        ({"id": 99}, []),
        ({"name": "East End", "negate": True}, ["Management", "west"]),
        ({"is_mgmt_partition": True}, ["Management"]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_searches(reader: Program, keys: dict[str, object], found: list[str]) -> None:
    assert reader.search(**keys) == found


def test_a_search_by_what_there_is_not(reader: Program) -> None:
    answer = reader.raw(method="GET", path="/uom/LogicalPartition/search/(Colour=='red')")
    assert answer["status"] == 400
    assert "Colour" in answer["body"]
    assert "PartitionName" in answer["body"], "which fields there are"


def test_nobody_hosts_storage(reader: Program) -> None:
    others = reader.others()
    assert (others["management"], others["vios"], others["clusters"]) == ("Management", 0, 0)
    assert others["partitions"] == ["Management", "East End", "west"]


def test_etags(reader: Program) -> None:
    held = reader.hold(name="East End")
    assert held["etag"]
    again = reader.refresh()
    assert again["same"]
    assert again["etag"] == held["etag"]
    assert reader.refresh_feed_entries() == [3, 3], "the ETags of a feed are those of its entries"


@pytest.mark.parametrize(
    ("prop", "value"),
    [("PartitionState", "running"), ("PartitionName", "west"), ("PartitionID", 8), ("PartitionType", "AIX/Linux")],
)
def test_quick_properties(reader: Program, prop: str, value: object) -> None:
    answer = reader.quick(name="west", prop=prop)
    assert answer["value"] == value
    assert answer["type"].startswith("application/json")


def test_an_unknown_quick_property(reader: Program) -> None:
    with pytest.raises(StepError, match="NoSuchThing") as caught:
        reader.quick(name="west", prop="NoSuchThing")
    assert caught.value.status in (400, 404)


def test_networks(reader: Program) -> None:
    networks = reader.networks()
    (switch,) = networks["switches"]
    assert (switch["name"], switch["id"], switch["mode"]) == ("ETHERNET0", 0, "Veb")
    assert sorted((one["switch"], one["vlan"]) for one in networks["networks"]) == [("ETHERNET0", 1), ("ETHERNET0", 5)]
    assert networks["links"] == networks["hrefs"]


def test_adapters(reader: Program) -> None:
    (east,) = reader.adapters(name="East End")
    assert (east["slot"], east["vlan"], east["mac"]) == (4, 5, "02EA57000004")
    assert (east["lpar_id"], east["switch"], east["enabled"], east["trunk"]) == (7, 0, True, False)
    assert east["location"].endswith("-V7-C4")
    (west,) = reader.adapters(name="west")
    assert (west["slot"], west["vlan"]) == (2, 1)
    assert reader.adapters(name="Management") == []
    assert reader.trunks(name="East End") == []


def test_no_property_of_any_wrapper_fails(reader: Program) -> None:
    said = reader.properties()
    assert {"System", "LPAR", "CNA", "VSwitch", "VNet"} <= set(said)
    failed = {
        f"{kind}.{name}": values
        for kind, properties in said.items()
        for name, values in properties.items()
        if any(value.startswith("FAILED") for value in values)
    }
    assert failed == {}


def test_the_documents_have_the_shape_of_real_ones(reader: Program) -> None:
    shapes = reader.shapes()
    differences = [f"{kind}: {what}" for kind, shape in shapes.items() for what in shape["differences"]]
    assert not differences, "\n".join(differences)
    assert {kind: shape["compared"] for kind, shape in shapes.items() if shape["compared"] < 10} == {}


def test_what_is_not_there(reader: Program) -> None:
    for path in (f"/uom/LogicalPartition/{NOBODY}", f"/uom/ManagedSystem/{NOBODY}/LogicalPartition"):
        answer = reader.raw(method="GET", path=path)
        assert answer["status"] == 404, path
        assert "HttpErrorResponse" in answer["body"]
        assert re.search(NOBODY, answer["body"], re.IGNORECASE)
    answer = reader.raw(method="GET", path="/uom/SharedMemoryPool")
    assert answer["status"] == 404
    assert "SharedMemoryPool" in answer["body"]
    assert "pvnet supported novalink" in answer["body"]


def test_every_answer_says_which_console_it_is(reader: Program, shared_lab: Lab) -> None:
    for path in ("/uom/ManagedSystem", "/uom/VirtualIOServer", "/uom/NoSuchThing"):
        headers = {name.lower(): value for name, value in reader.raw(method="GET", path=path)["headers"].items()}
        assert headers["x-mc-type"] == "PVM", path
        if headers.get("content-length") != "0" and "content-type" in headers:
            assert "charset=utf-8" in headers["content-type"].lower(), path
