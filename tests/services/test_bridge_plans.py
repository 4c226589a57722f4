"""How two topologies differ for the vbus host: applied to the first, the difference gives the second."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import ConfigError
from pvnet.runtime.topology import Topology
from pvnet_services.bridge_plans import NetworkPlan, difference, network_plan, venet_name

SWITCHES = ("net0", "net1", "jumbo")
slots = st.lists(st.integers(2, 6), unique=True, max_size=4)


@st.composite
def plans(draw: st.DrawFn) -> NetworkPlan:
    switches = draw(st.lists(st.sampled_from(SWITCHES), unique=True, min_size=1))
    partitions: list[dict[str, Any]] = []
    for number, name in enumerate(draw(st.lists(st.sampled_from("abc"), unique=True)), start=1):
        venets = [
            {
                "slot": slot,
                "switch": draw(st.sampled_from(switches)),
                "vlan": draw(st.sampled_from([1, 7])),
                "mac": f"02:00:00:0{draw(st.integers(0, 1))}:0{ord(name) - 96}:0{slot}",
            }
            for slot in draw(slots)
        ]
        partitions.append({"name": name, "lpar_id": number, "venet": venets})
    tables = {
        "partition": partitions,
        "switch": [{"name": name, "mtu": 9000 if name == "jumbo" else 1500} for name in switches],
    }
    return network_plan(Topology.model_validate(tables))


@given(plans(), plans())
def test_the_difference_makes_one_of_the_other(old: NetworkPlan, new: NetworkPlan) -> None:
    todo = difference(old, new)
    switches, devices = set(old.switches), dict(old.devices)
    for config in todo.add_switches:
        assert config.name not in switches
        switches.add(config.name)
    for plan in todo.remove:
        assert devices.pop(plan.name) == plan
    for plan in todo.replug:
        assert devices[plan.name].is_same_device(plan), "its guest does not notice"
        assert plan.switch in switches
        devices[plan.name] = plan
    for plan in todo.add:
        assert plan.name not in devices
        assert plan.switch in switches
        devices[plan.name] = plan
    for name in todo.remove_switches:
        switches.remove(name)
    assert devices == new.devices
    assert switches == set(new.switches)
    nothing = difference(new, new)
    assert not any((nothing.add, nothing.remove, nothing.replug, nothing.add_switches, nothing.remove_switches))


def test_names_come_from_slots() -> None:
    assert venet_name("lpar1", 2) == "lpar1-eth0"
    assert venet_name("lpar1", 65535) == "lpar1-eth65533"
    topology = Topology.model_validate({"partition": [{"name": "a", "venet": [{}, {"slot": 9}]}], "switch": [{}]})
    assert list(network_plan(topology).devices) == ["a-eth0", "a-eth7"]


def test_a_name_that_is_there_twice_is_refused() -> None:
    tables = {
        "partition": [{"name": "a", "venet": [{}], "device": [{"name": "a-eth0", "class": "echo"}]}],
        "switch": [{}],
    }
    with pytest.raises(ConfigError, match="a device a-eth0 already"):
        network_plan(Topology.model_validate(tables))


@pytest.mark.parametrize("more", [{"mtu": 9000}, {"ageing_s": 5}, {"max_addresses": 7}, {"ports": ["tap:other"]}])
def test_a_switch_does_not_become_another_one(more: dict[str, Any]) -> None:
    old = network_plan(Topology.model_validate({"switch": [{}]}))
    with pytest.raises(ConfigError, match="switch net0 has another"):
        difference(old, network_plan(Topology.model_validate({"switch": [more]})))
    renamed = network_plan(Topology.model_validate({"switch": [{"label": "Blue"}]}))
    assert difference(old, renamed) == difference(old, old)
