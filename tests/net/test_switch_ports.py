"""Ports of a switch by their text: what is refused, what ends by itself, how each is shown, and how all are closed."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from net_frames import BROADCAST

from pvnet.capture.pcapng import PcapngWriter
from pvnet.cli.vbus import _switch_lines
from pvnet.core.errors import ConfigError
from pvnet.core.machine import Note
from pvnet.core.names import NodeName
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.topology import BRIDGE, Topology
from pvnet.transport.loopback import LoopbackNetwork
from pvnet.vbus.packet import ACCEPTS_TAP, Packet, packet_of
from pvnet_services.switch_ports import SwitchPorts
from pvnet_services.switches import HostedSwitch, OpenPort, Switches

FRAME = BROADCAST + b"\x02\0\0\0\0\x09\x88\xb5" + bytes(60)
TOPOLOGY = {"lab": {"name": "one"}, "partition": [{"name": "a", "lpar_id": 1}], "switch": [{"name": "net0"}]}


class Guest:
    """A port that sends."""

    def __init__(self, hosted: HostedSwitch) -> None:
        self.name = "guest"
        self.mtu = 1500
        self.accepts = ACCEPTS_TAP
        self.receive: Callable[[list[Packet]], None] = lambda _packets: None
        hosted.running.plug(self)

    def deliver(self, packets: list[Packet]) -> int:
        return len(packets)

    def send(self) -> None:
        self.receive([packet_of(FRAME)])


class World:
    """The switch ``net0`` of a bridge."""

    def __init__(self, notes: list[Note], endpoint: Endpoint, switches: Switches) -> None:
        self.notes = notes
        self.endpoint = endpoint
        self.switches = switches
        self.hosted = switches.switch("net0")
        self.guest = Guest(self.hosted)

    async def add(self, port: str) -> None:
        await self.switches.add_port("net0", port)

    async def remove(self, port: str) -> None:
        await self.switches.remove_port("net0", port)

    def port(self, name: str) -> dict[str, Any] | None:
        """The port as ``pvnet vbus switch --json`` has it; the text has its state, too."""
        shown = self.hosted.shown()
        found = [port for port in shown["ports"] if port["name"] == name]  # type: ignore[attr-defined]
        assert len(found) <= 1
        if found:
            line = next(line for line in _switch_lines(shown) if line.startswith(f"  {name} "))
            assert found[0]["state"] in line
        return found[0] if found else None


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    notes: list[Note] = []
    endpoint = Endpoint(LoopbackNetwork().port(NodeName(BRIDGE)), lab="one", name=BRIDGE, role="bridge")
    note = endpoint.note

    def noted(one: Note, **context: str | int) -> None:
        notes.append(one)
        note(one, **context)

    endpoint.note = noted  # type: ignore[method-assign]
    await endpoint.start()
    switches = Switches(Topology.model_validate(TOPOLOGY), endpoint.note, SwitchPorts(endpoint, "").open)
    try:
        yield World(notes, endpoint, switches)
    finally:
        await switches.close()
        await endpoint.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def capture_of(*frames: bytes) -> bytes:
    stream = io.BytesIO()
    writer = PcapngWriter(stream.write)
    writer.interface("x")
    for number, frame in enumerate(frames):
        writer.packet(0, number, frame)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("port", "says"),
    [
        ("pcapng:/tmp/" + "x" * 300, "File name too long"),
        ("replay:/tmp/" + "x" * 300, "File name too long"),
        ("pcapng:/tmp/a\nb", "printable"),
        ("pcapng:/tmp/a\0b", "printable"),
        ("pcapng:/dev/full", "No space left on device"),
        ("pcapng:/", "Is a directory"),
        ("replay:/dev/null", "not a file"),
        ("tap:x@no\nspace", "printable"),
        ("broker-listen:one", "another lab"),
    ],
)
async def test_what_cannot_be_opened_is_refused_in_one_line_and_leaves_nothing(port, says):
    async with a_world() as world:
        with pytest.raises(ConfigError, match=says) as refused:
            await world.add(port)
        assert "\n" not in str(refused.value)
        assert world.hosted.opened == {}
        assert len(world.hosted.shown()["ports"]) == 1  # type: ignore[arg-type]


async def test_a_capture_whose_reader_goes_is_shown_as_ended_with_its_losses_and_may_be_attached_anew(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    name = f"pcapng:{pipe}"
    async with a_world() as world:
        await world.add(name)
        assert world.port(name)["state"] == "waits for a reader"
        world.guest.send()
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        await until(lambda: world.port(name)["state"] == "mirror")
        with pytest.raises(ConfigError, match="already"):
            await world.add(name)
        os.close(reader)
        world.guest.send()
        world.guest.send()
        shown = world.port(name)
        assert shown["state"] == "ended (the reader is gone)"
        assert shown["drops"] == {"no_reader": 1, "unwritten": 1, "ended": 1}
        assert [note.level for note in world.notes if note.event == "capture_ended"] == ["warning"]
        await world.add(name)
        assert world.port(name)["state"] == "waits for a reader"
        assert world.port(name)["drops"] == {}


async def test_what_is_no_capture_is_refused_when_it_is_attached(tmp_path: Path):
    (tmp_path / "file").write_text("no capture")
    async with a_world() as world:
        with pytest.raises(ConfigError, match="not a pcapng file"):
            await world.add(f"replay:{tmp_path / 'file'}")
        assert world.hosted.opened == {}


@pytest.mark.parametrize("cut", [0, 3])
async def test_a_replay_that_is_over_is_a_port_no_more_and_its_addresses_are_forgotten(tmp_path: Path, cut: int):
    file = tmp_path / "file"
    content = capture_of(FRAME, FRAME)
    file.write_bytes(content[: len(content) - cut])
    async with a_world() as world:
        for _ in range(2):
            await world.add(f"replay:{file}")
            assert world.port(f"replay:{file}") is not None
            await until(lambda: not world.hosted.opened)
            assert world.port(f"replay:{file}") is None
            assert world.hosted.shown()["addresses"] == []
        ended = [dict(note.fields) for note in world.notes if note.event == "replay_ended"]
        assert len(ended) == 2
        assert all(("reason" in fields) == bool(cut) for fields in ended)


async def test_a_replay_is_removed_while_it_plays_and_before_it_has_begun(tmp_path: Path):
    file = tmp_path / "file"
    stream = io.BytesIO()
    writer = PcapngWriter(stream.write)
    writer.interface("x")
    writer.packet(0, 0, FRAME)
    writer.packet(0, 3600 * 10**9, FRAME)
    file.write_bytes(stream.getvalue())
    async with a_world() as world:
        for pause in (0.0, 0.02):
            await world.add(f"replay:{file}")
            if pause:
                await asyncio.sleep(pause)
            await world.remove(f"replay:{file}")
            assert world.port(f"replay:{file}") is None


async def test_links_are_shown_down_with_the_reason_and_listeners_with_how_many_are_connected():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    link, listener = f"tcp:127.0.0.1:{number}", f"tcp-listen:127.0.0.1:{number}"
    async with a_world() as world, a_world() as other:
        await world.add(link)
        await until(lambda: world.port(link)["state"] == "down (Connection refused)")
        await other.add(listener)
        assert other.port(listener)["state"] == "listening, 0 connected"
        await until(lambda: other.port(listener)["state"] == "listening, 1 connected")
        await until(lambda: world.port(link)["state"] == "ok")
        assert other.port("link:one/net0")["state"] == "ok"
        await other.remove(listener)
        assert other.port(listener) is None
        assert other.port("link:one/net0") is None
        await until(lambda: world.port(link)["state"].startswith("down"))
        await other.add("broker-listen:two")
        assert other.port("broker-listen:two")["state"] == "listening, 0 connected"
        await other.remove("broker-listen:two")
        assert other.port("broker-listen:two") is None


async def test_a_switch_that_connects_to_two_listeners_of_one_switch_has_two_ports():
    async with a_world() as world, a_world() as other:
        numbers = []
        for _ in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                numbers.append(probe.getsockname()[1])
        for number in numbers:
            await other.add(f"tcp-listen:127.0.0.1:{number}")
            await world.add(f"tcp:127.0.0.1:{number}")
        await until(lambda: other.port("link:one/net0") and other.port("link:one/net0#2"))


async def test_notes_of_a_switch_are_heard_once_and_say_of_which_switch(tmp_path: Path):
    async with a_world() as world:
        await world.add(f"pcapng:{tmp_path / 'file'}")
        await world.remove(f"pcapng:{tmp_path / 'file'}")
    plugged = [dict(note.fields) for note in world.notes if note.event == "port_plugged"]
    assert plugged == [{"switch": "net0", "port": "guest"}, {"switch": "net0", "port": f"pcapng:{tmp_path / 'file'}"}]


async def test_closing_takes_ports_that_end_meanwhile_and_ports_that_are_being_opened():
    notes: list[Note] = []
    closed: list[str] = []
    may_open = asyncio.Event()

    async def opener(hosted: HostedSwitch, text: str) -> OpenPort:
        async def close() -> None:
            hosted.over("pcapng:b")
            await asyncio.sleep(0)
            closed.append(text)

        if text == "pcapng:late":
            await may_open.wait()
        return OpenPort(text, close)

    switches = Switches(Topology.model_validate(TOPOLOGY), notes.append, opener)
    for port in ("pcapng:a", "pcapng:b", "pcapng:c"):
        await switches.add_port("net0", port)
    late = asyncio.create_task(switches.add_port("net0", "pcapng:late"))
    await asyncio.sleep(0)
    await switches.close()
    may_open.set()
    with pytest.raises(ConfigError, match="ending"):
        await late
    assert sorted(closed) == ["pcapng:a", "pcapng:c", "pcapng:late"]
