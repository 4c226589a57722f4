"""A device of somebody else's package that fails, in a running lab: guests, administrators and other devices go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from behaviour_worlds import MQTT, LoopbackWorld, behaviour, eventually

from pvnet.core.errors import RefusedError
from pvnet.core.machine import Tick
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, NetPing, VbusAdmin, VbusDevcall
from pvnet.runtime.topology import Topology
from pvnet.testing.in_process import InProcessLab
from pvnet.vbus.device import Connection, ConnectionHost
from pvnet.vbus.echo import ECHO_CLASS, EchoConnection, EchoDevice
from pvnet.vbus.packet import Packet
from pvnet_services import vbus_host
from pvnet_services.vbus_host import VbusClient, load_classes

NET: dict[str, Any] = {
    "partition": [
        {"name": "a", "venet": [{"address": "10.77.0.1/24"}], "device": [{"name": "echo0", "class": "echo"}]},
        {"name": "b", "venet": [{"address": "10.77.0.2/24", "ring": 32}]},
    ],
    "switch": [{"name": "net0"}],
    "manager": None,
}
LOOPBACK = [pytest.param(LoopbackWorld(), id="loopback")]
WORLDS = [*LOOPBACK, pytest.param(MQTT["unix"], id="unix", marks=pytest.mark.needs("mosquitto"))]
FUSE = 5
"""Devcall that fails."""


class Fuse(EchoConnection):
    """Blows."""

    def call(self, func: int, data: memoryview, flags: int) -> int:
        if func == FUSE:
            raise ZeroDivisionError("blown")
        return super().call(func, data, flags)


class FuseDevice(EchoDevice):
    """Its connections blow; with the note ``dark`` it cannot be looked at, ``hot`` it cannot be set."""

    def open(self, version: int, host: ConnectionHost) -> Connection:
        super().open(version, host)
        self.connection = Fuse(self)
        return self.connection

    def attributes(self) -> Mapping[str, str]:
        if self.note == "dark":
            raise OSError("no light")
        return super().attributes()

    def set(self, key: str, value: str) -> None:
        if value == "hot":
            raise OverflowError("too hot")
        super().set(key, value)


class FuseClass:
    """Makes them."""

    name = "fuse"
    type = "fuse"

    def create(self, name: str, attributes: Mapping[str, str]) -> FuseDevice:
        device = FuseDevice()
        for key, value in attributes.items():
            device.set(key, value)
        return device


FUSE_CLASS = FuseClass()


async def ask(lab: InProcessLab, node: str, command: Management) -> Any:
    reply = (await (await lab.client()).call(node, Envelope(management=command), 60.0)).management_reply
    if reply.status != ManagementReply.OK:
        raise RefusedError(reply.text)
    return json.loads(reply.status_json) if reply.status_json else None


async def admin(lab: InProcessLab, verb: VbusAdmin.Verb, **fields: Any) -> Any:
    command = VbusAdmin(verb=verb)
    for key, value in fields.items():
        if key == "attributes":
            command.attributes.update(value)
        else:
            setattr(command, key, value)
    return await ask(lab, "bridge", Management(vbus=command))


async def devcall(lab: InProcessLab, device: int, func: int, text: bytes = b"pvnet") -> Any:
    command = VbusDevcall(device=device, version=1, func=func, data=text)
    return await ask(lab, "a", Management(devcall=command))


async def attached(lab: InProcessLab, **attributes: str) -> int:
    """A fuse on the bus of a; its id there."""
    lab.bridge.host.registry.classes["fuse"] = FUSE_CLASS
    await admin(lab, VbusAdmin.DEVICE_CREATE, device="fuse0", attributes=attributes, **{"class": "fuse"})
    id_: int = (await admin(lab, VbusAdmin.DEVICE_ATTACH, device="fuse0", bus="a"))["id"]

    async def known() -> bool:
        try:
            return bool((await devcall(lab, id_, 0))["result"] == 5)
        except RefusedError:
            return False

    await eventually(known)
    return id_


async def removed(lab: InProcessLab) -> None:
    await admin(lab, VbusAdmin.DEVICE_DETACH, device="fuse0")
    await admin(lab, VbusAdmin.DEVICE_REMOVE, device="fuse0")
    await lab.leave()


async def reaches(lab: InProcessLab) -> None:
    command = NetPing(address="10.77.0.2", count=5, payload_bytes=100, interval_ms=5, timeout_ms=20_000)
    assert (await ask(lab, "a", Management(ping=command)))["received"] == 5


@behaviour(worlds=WORLDS, **NET)
async def test_a_device_that_fails_answers_eio_and_the_guests_next_calls_work(lab: InProcessLab) -> None:
    id_ = await attached(lab)
    for _ in range(3):
        with pytest.raises(RefusedError, match="EIO"):
            await devcall(lab, id_, FUSE)
        assert (await devcall(lab, id_, 1))["data"] == b"tenvp".hex()
        assert (await devcall(lab, 1, 1))["data"] == b"tenvp".hex(), "the other device of this guest"
        await reaches(lab)
    assert lab.bridge.host.clients["a"].machine.counters["device_failed"] == 3
    assert lab.bridge.endpoint.counters["device_failed"] >= 1, "noted, too"
    assert lab.bridge.endpoint.counters["turn_failed"] == 0
    await removed(lab)


@behaviour(worlds=LOOPBACK, **NET)
async def test_a_device_that_cannot_be_looked_at_is_shown_with_its_error(lab: InProcessLab) -> None:
    await attached(lab)
    await admin(lab, VbusAdmin.DEVICE_SET, device="fuse0", attributes={"note": "dark"})
    for shown in (
        await admin(lab, VbusAdmin.SHOW),
        {"devices": (await admin(lab, VbusAdmin.SHOW, bus="a"))["devices"]},
    ):
        found = {device["name"]: device for device in shown["devices"]}
        assert "OSError: no light" in found["fuse0"]["error"]
        assert found["echo0"]["error"] is None
    await removed(lab)


@behaviour(worlds=LOOPBACK, **NET)
async def test_what_create_and_set_raised_is_what_the_administrator_reads(lab: InProcessLab) -> None:
    await attached(lab)
    with pytest.raises(RefusedError, match=r"device fuse0 .* set note: OverflowError: too hot"):
        await admin(lab, VbusAdmin.DEVICE_SET, device="fuse0", attributes={"note": "hot"})
    with pytest.raises(RefusedError, match=r"device fuse1 .* create: OverflowError: too hot"):
        await admin(lab, VbusAdmin.DEVICE_CREATE, device="fuse1", attributes={"note": "hot"}, **{"class": "fuse"})
    assert lab.bridge.endpoint.counters["device_failed"] == 2
    await removed(lab)


@behaviour(worlds=LOOPBACK, settles=False, **NET)
async def test_a_device_of_the_topology_that_cannot_be_made_is_a_configuration_error(lab: InProcessLab) -> None:
    lab.bridge.host.registry.classes["echo"] = FUSE_CLASS
    before = lab.bridge.host.registry.shown()
    more = {"name": "hot0", "class": "echo", "attributes": {"note": "hot"}}
    tables = lab.topology.model_dump(by_alias=True, exclude_defaults=True)
    tables["partition"][0]["device"].append(more)
    tables["partition"].append({"name": "new", "venet": [{}]})
    with pytest.raises(RefusedError, match=r"partition a: device hot0 .* create: OverflowError: too hot"):
        await lab.use_topology(Topology.model_validate(tables))
    assert lab.bridge.host.registry.shown() == before, "what was made before it has been taken away"


@behaviour(worlds=LOOPBACK, **NET)
async def test_a_mistake_of_the_host_itself_costs_a_turn_and_the_call_is_answered(lab: InProcessLab) -> None:
    client: VbusClient = lab.bridge.host.clients["a"]
    honest = client.machine.calls.execute

    def wrong(_: object) -> int:
        raise AssertionError("cannot be")

    client.machine.calls.execute = wrong  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match="EIO"):
        await devcall(lab, 1, 0)
    client.machine.calls.execute = honest  # type: ignore[method-assign]
    assert lab.bridge.endpoint.counters["turn_failed"] >= 1
    client.feed(Tick())
    assert not client._calls
    assert (await devcall(lab, 1, 1))["result"] == 5
    await reaches(lab)
    await lab.leave()


@behaviour(worlds=WORLDS, **NET)
async def test_a_port_of_the_switch_that_fails_costs_frames_and_not_the_guest_that_sent_them(lab: InProcessLab) -> None:
    port = lab.bridge.host.registry.device("b-eth0").port
    kind = type(port)

    class Torn(kind):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def deliver(self, packets: list[Packet]) -> int:
            raise RuntimeError("torn")

    port.__class__ = Torn
    try:
        command = NetPing(address="10.77.0.2", count=2, payload_bytes=100, interval_ms=5, timeout_ms=100)
        assert (await ask(lab, "a", Management(ping=command)))["received"] == 0
    finally:
        port.__class__ = kind
    assert lab.bridge.endpoint.counters["switch_failed_frames"] >= 1
    assert lab.bridge.endpoint.counters["switch_failed"] >= 1
    assert lab.bridge.host.clients["a"].machine.counters["device_failed"] == 0
    await reaches(lab)
    await lab.leave()


class Nameless:
    """No class at all."""


class Odd:
    """Its type cannot be written down in an event."""

    name = "odd"
    type = "Not A Type"


def test_classes_that_are_none_are_left_out_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("nothing", f"{__name__}:Nothing", "pvnet.devices"),
        EntryPoint("echo", "pvnet.vbus.echo:ECHO_CLASS", "pvnet.devices"),
        EntryPoint("nameless", "test_failing_classes:NAMELESS", "pvnet.devices"),
        EntryPoint("odd", "test_failing_classes:ODD", "pvnet.devices"),
    ]
    import sys
    from types import ModuleType

    module = ModuleType("test_failing_classes")
    module.NAMELESS, module.ODD = Nameless(), Odd()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "test_failing_classes", module)
    monkeypatch.setattr(vbus_host, "entry_points", lambda group: points)
    left_out: dict[str, str] = {}
    assert load_classes(left_out.__setitem__) == {"echo": ECHO_CLASS}
    assert sorted(left_out) == ["nameless", "nothing", "odd"]
    assert "AttributeError" in left_out["nameless"]
    assert "'Not A Type'" in left_out["odd"]
