"""The device as an administrator sees it: class, attributes, opening."""

from __future__ import annotations

import pytest
from venet_world import VenetWorld

from pvnet.papr.errno import EBUSY, EINVAL, ENOENT, EPERM
from pvnet.vbus.errors import VbusError
from pvnet.vbus.venet_south import VENET, VENET_TAP, VenetDevice, parse_mac


def errno_of(action):
    with pytest.raises(VbusError) as caught:
        action()
    return caught.value.errno


def test_attributes_have_defaults_and_two_devices_have_two_addresses():
    one, two = VENET.create("one", {}), VENET_TAP.create("two", {})
    assert (VENET.name, VENET_TAP.name, VENET.type, one.type) == ("venet", "venet-tap") + ("virtual-ethernet",) * 2
    assert dict(one.attributes()) == {
        "host_mac": one.get("host_mac"),
        "client_mac": one.get("client_mac"),
        "ifname": "one",
        "enabled": "1",
        "mtu": "1500",
        "txmitigation": "10",
        "burstthresh": "0",
        "zcthresh": "512",
    }
    macs = {device.get(key) for device in (one, two) for key in ("host_mac", "client_mac")}
    assert len(macs) == 4
    assert all(parse_mac(mac)[0] == 2 for mac in macs)
    assert VENET.create("one", {}).get("client_mac") == one.get("client_mac")
    assert (one.port.name, one.port.mtu, one.port.accepts, one.port.deliver([])) == ("one", 1500, 0, 0)


def test_attributes_are_set_when_made_and_later():
    device = VENET.create("d", {"mtu": "9000", "client_mac": "02:AA:00:00:00:01", "enabled": "0"})
    assert (device.get("mtu"), device.get("client_mac"), device.carrier) == ("9000", "02:aa:00:00:00:01", False)
    device.set("zcthresh", "65536")
    device.set("burstthresh", "50")
    assert (device.get("zcthresh"), device.get("burstthresh")) == ("65536", "50")


@pytest.mark.parametrize(
    ("key", "value", "errno"),
    [
        ("host_mac", "02:00:00:00:00:01", EPERM),
        ("ifname", "x", EPERM),
        ("colour", "red", ENOENT),
        ("mtu", "67", EINVAL),
        ("mtu", "65522", EINVAL),
        ("mtu", "-1", EINVAL),
        ("mtu", "", EINVAL),
        ("mtu", "15e2", EINVAL),
        ("mtu", "١٥٠٠", EINVAL),
        ("enabled", "2", EINVAL),
        ("client_mac", "01:00:00:00:00:01", EINVAL),
        ("client_mac", "00:00:00:00:00:00", EINVAL),
        ("client_mac", "02:00:00:00:00", EINVAL),
        ("client_mac", "02:00:00:00:00:0g", EINVAL),
        ("client_mac", "02:00:00:00:00:1", EINVAL),
    ],
)
def test_wrong_attributes_have_an_errno(key, value, errno):
    device = VenetDevice("d")
    before = dict(device.attributes())
    assert errno_of(lambda: device.set(key, value)) == errno
    assert dict(device.attributes()) == before
    assert errno_of(lambda: VENET.create("d", {key: value})) == errno


def test_an_unknown_attribute_is_not_there():
    assert errno_of(lambda: VenetDevice("d").get("colour")) == ENOENT


def test_one_opener_at_a_time_of_one_version():
    world = VenetWorld()
    assert errno_of(lambda: world.device.open(2, world)) == EINVAL
    assert errno_of(lambda: world.device.open(0, world)) == EINVAL
    world.execute(world.open(1))
    assert errno_of(lambda: world.device.open(1, world)) == EBUSY
    assert errno_of(lambda: world.device.set("client_mac", "02:00:00:00:00:01")) == EINVAL
    assert errno_of(lambda: world.device.set("mtu", "1400")) == EINVAL
    world.device.set("txmitigation", "3")
    world.device.set("enabled", "0")
    world.execute(world.close())
    world.device.set("mtu", "1400")
    world.execute(world.open(1))


def test_a_connection_that_ended_does_not_end_its_successor():
    world = VenetWorld()
    first = world.device.open(1, world)
    first.close()
    second = world.device.open(1, world)
    first.close()
    assert world.device.connection is second
