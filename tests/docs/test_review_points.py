"""The points that reviewers of the Linux driver raised: see the last table of docs/vmc.md."""

from __future__ import annotations

import ast
import errno
import inspect
from pathlib import Path

import pytest
from vmc.pair import REQUESTVMC, UNIT, Pair

import pvnet.client
from pvnet.client import device
from pvnet.client.lab import Lab
from pvnet.core.machine import Note
from pvnet.papr.calls import CallHypervisor
from pvnet.papr.errno import EBUSY, EINTR
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.platform_io import FaultPoint, SetFault
from pvnet.pb.v1.device_pb2 import DeviceIo
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.vmc import chardev
from pvnet.vmc.connection import HmcState
from pvnet.vmc.context import VmcState
from pvnet.vmc.dialect import DIALECTS, Dialect
from pvnet.vmc.interface import DeviceInterrupt, DeviceIoctl, Irq

ROOT = Path(__file__).resolve().parents[2]
CHANNEL = ("partition", "sessions", "connection", "chardev", "hypervisor", "interface", "messages", "buffer_pool")


def test_public_api_is_small_and_documented() -> None:
    """Point 6: one small public module with the constants of the interface; the rest is private."""
    assert {"CharDevice", "Lab", "VmcDevice", "VmcQuery", "VmcSession"} == set(pvnet.client.__all__)
    for name in pvnet.client.__all__:
        value = getattr(pvnet.client, name)
        assert inspect.getdoc(value)
        for method, function in inspect.getmembers(value, inspect.isfunction):
            assert method.startswith("_") or inspect.getdoc(function), f"{name}.{method}"
    for name in ("SETHMCID", "QUERY", "REQUESTVMC"):
        assert getattr(device, name) == getattr(chardev, name)


def test_two_adapters_share_nothing() -> None:
    """Point 7: no global state; whatever happens to one adapter, the other does not notice."""
    first, second = Pair(), Pair()
    for pair in (first, second):
        pair.probe()
    handles = first.session("one"), second.session("two")
    first.write(handles[0], b"for the first")
    assert second.events[-1].hmc_id.rstrip(b"\0") == b"two"
    first.kill_hypervisor()
    first.settle()
    assert first.partition.state is VmcState.CRQINIT
    assert second.partition.state is VmcState.READY
    assert second.partition.sessions.connections.slots[0].state is HmcState.READY
    assert second.write(handles[1], b"still here") == 10
    assert second.events[-1].payload == b"still here"
    statements = [
        (path, node)
        for path in [*(ROOT / "pvnet").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Global)
    ]
    assert statements == []


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_every_note_names_its_adapter(dialect: Dialect) -> None:
    """Point 8: whatever the driver says carries the unit address of its adapter."""
    pair = Pair(dialect)
    said: list[Note] = []
    feed = pair.partition.feed

    def listen(event: object, now: float) -> list[object]:
        outputs = feed(event, now)
        said.extend(output for output in outputs if isinstance(output, Note))
        return outputs

    pair.partition.feed = listen
    pair.probe()
    pair.session()
    for element in (b"\x80\x06" + bytes(2) + b"\xc8" + bytes(11), b"\x80\x77" + bytes(14)):
        pair.platform.partner_post("mgmt", UNIT, element)
        pair.step_irq()
        pair.settle()
    pair.kill_hypervisor()
    pair.settle()
    assert {note.event for note in said} >= {"vmc_state", "dropped"}
    assert [note for note in said if ("unit", f"{UNIT:#x}") not in note.fields] == []


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_requesting_a_vmc_is_bounded_and_can_be_interrupted(dialect: Dialect) -> None:
    """Point 10: a hypervisor that is busy for ever does not hold the application for ever."""
    pair = Pair(dialect)
    pair.probe()
    handle = pair.open()
    fault = SetFault("mgmt", 0, FaultPoint.REQUEST_VMC, HcallRc.H_BUSY, 1_000_000)
    pair.platform.feed(fault, pair.now)
    request = pair.ask(DeviceIoctl, handle, REQUESTVMC)
    pair.settle()
    assert request not in pair.done
    pair.tick(40.0)
    assert pair.done[request].result == -EBUSY
    assert pair.partition.counters["request_vmc_gave_up"] == 1
    again = pair.ask(DeviceIoctl, handle, REQUESTVMC)
    pair.settle()
    pair.feed(DeviceInterrupt(again))
    assert pair.done[again].result == -EINTR
    pair.tick(40.0)
    assert not [call for call in pair.calls if call.opcode == HcallOpcode.H_REQUEST_VMC]


def test_a_spurious_interrupt_does_nothing() -> None:
    """Point 11: an interrupt says "look again"; whoever finds nothing does nothing."""
    pair = Pair()
    assert pair.feed(Irq()) == []
    pair.probe()
    pair.session()
    before = pair.partition.state, dict(pair.partition.counters)
    for _ in range(3):
        assert pair.feed(Irq()) == []
    assert (pair.partition.state, dict(pair.partition.counters)) == before


def test_the_channel_does_not_know_the_payload_layer() -> None:
    """Point 14: the machines of the channel neither import the payload layer nor contain its magic numbers."""
    for name in CHANNEL:
        text = (ROOT / "pvnet" / "vmc" / f"{name}.py").read_text()
        tree = ast.parse(text)
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert "pvnet.vmc.router" not in modules
        assert not [m for m in modules if m is not None and m.startswith("pvnet.pb")]
        assert b"\xde\xca\xff" not in [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_messages_keep_their_boundaries(dialect: Dialect) -> None:
    """Points 3 and 17: one write is one message, unpadded, and only its own bytes are copied."""
    pair = Pair(dialect)
    pair.probe()
    handle = pair.session()
    sizes = (1, 32, 38, 100, 4095, 4096)
    for size in sizes:
        pair.log.clear()
        message = bytes([size % 251]) * size
        assert pair.write(handle, message) == size
        assert pair.events[-1].payload == message
        pair.send(0, message)
        assert pair.read(handle).data == message
        copies = [entry[1] for entry in pair.log if entry[0] == "H_COPY_RDMA"]
        assert copies == [size, size]


@pytest.mark.slow
async def test_only_devices_that_exist_have_a_path(tmp_path: Path) -> None:
    """Point 12: a management partition without CRQ pairs has one device; no numbers are handed out for more."""
    async with Lab(base=tmp_path) as lab:
        for path in ("/dev/ibmvmc1", "/dev/crq0", "/dev/null", ""):
            io = DeviceIo(operation=DeviceIo.OPEN, path=path)
            reply = await lab.endpoint.call(lab.management_partition, Envelope(device_io=io), 10.0)
            assert reply.device_reply.result == -errno.ENOENT
        async with lab.vmc_device() as opened:
            assert (await opened.query()).have_vmc


def test_calls_of_the_driver_are_the_documented_ones() -> None:
    """Point 5: what the driver needs from the platform is a short list of hypervisor calls."""
    pair = Pair()
    seen: set[int] = set()
    feed = pair.partition.feed

    def listen(event: object, now: float) -> list[object]:
        outputs = feed(event, now)
        seen.update(output.opcode for output in outputs if isinstance(output, CallHypervisor))
        return outputs

    pair.partition.feed = listen
    pair.probe()
    handle = pair.session()
    pair.write(handle, b"x")
    pair.ioctl(handle, REQUESTVMC)
    pair.close(handle)
    pair.remove()
    assert {HcallOpcode(opcode).name for opcode in seen} == {
        "H_REG_CRQ", "H_VIO_SIGNAL", "H_SEND_CRQ", "H_COPY_RDMA", "H_REQUEST_VMC", "H_FREE_CRQ",
    }  # fmt: skip
