"""Captures of a switch in files and pipes, and files played back."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from net_frames import BROADCAST, check_tcp, gso_tcp
from net_loops import both_loops

from pvnet.capture.pcapng import PcapngWriter, read_pcapng
from pvnet.core.errors import ConfigError, WireError
from pvnet.core.machine import Note
from pvnet.net import pcap_port
from pvnet.net.pcap_port import PcapPort, PcapReplay
from pvnet.net.running_switch import RunningSwitch
from pvnet.vbus.offload import DropReason, finish
from pvnet.vbus.packet import ACCEPTS_TAP, Packet, packet_of
from pvnet.vbus.switch import SwitchOptions

QUIET = SwitchOptions(probe_interval_s=0.0)


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


def frame(seed: int, size: int = 100) -> bytes:
    return BROADCAST + mac(1) + b"\x88\xb5" + random.Random(seed).randbytes(size - 14)


class Guest:
    def __init__(self, name: str) -> None:
        self.name = name
        self.mtu = 9000
        self.accepts = ACCEPTS_TAP
        self.got: list[bytes] = []
        self.receive = lambda _packets: None

    def deliver(self, packets: list[Packet]) -> int:
        self.got += [packet.tobytes() for packet in packets]
        return len(packets)


def frames_in(path: Path) -> list[bytes]:
    with path.open("rb") as stream:
        return [one.data for one in read_pcapng(stream)]


@both_loops
async def test_a_mirror_writes_everything_into_a_file_and_large_packets_as_frames(tmp_path):
    switch = RunningSwitch(QUIET)
    file = tmp_path / "all.pcapng"
    file.write_text("what was there before " * 1000)
    notes: list[Note] = []
    guests = [Guest("a"), Guest("b")]
    for guest in guests:
        switch.plug(guest)
    capture = PcapPort(file, note=notes.append, clock_ns=lambda: 1_700_000_000_000_000_007)
    switch.plug_sink(capture, mirror=True)
    payload = random.Random(1).randbytes(30000)
    large = gso_tcp(payload, 1448)
    guests[0].receive([packet_of(frame(1)), packet_of(frame(2, 9014)), large])
    assert capture.counters["frames"] == 2 + 21
    capture.close()
    got = frames_in(file)
    assert got[:2] == [frame(1), frame(2, 9014)]
    assert b"".join(check_tcp(one, 34)[3] for one in got[2:]) == payload
    assert guests[1].got == [frame(1), frame(2, 9014), large.tobytes()]
    assert [note.event for note in notes] == ["capture_begun"]
    assert capture.deliver([packet_of(frame(3))]) == 1
    assert capture.counters["no_reader"] == 1
    switch.close()


@pytest.mark.needs("tshark")
@both_loops
async def test_tshark_reads_a_pipe_while_it_is_written_and_finds_nothing_malformed(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    begun = asyncio.Event()
    capture = PcapPort(pipe, name="lab switch", note=lambda note: begun.set())
    assert capture.deliver([packet_of(frame(0))]) == 1
    assert capture.counters == {"no_reader": 1}
    reader = await asyncio.create_subprocess_exec(
        "tshark", "-n", "-i", str(pipe), "-T", "json", "-x", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    await asyncio.wait_for(begun.wait(), 30)
    frames = [one.tobytes() for one in finished(gso_tcp(random.Random(1).randbytes(5000), 1448))]
    frames += [frame(number) for number in range(50)]
    capture.deliver([packet_of(one) for one in frames])
    await capture.finish(30.0)
    out, _ = await asyncio.wait_for(reader.communicate(), 60)
    shown = json.loads(out)
    assert [bytes.fromhex(one["_source"]["layers"]["frame_raw"][0]) for one in shown] == frames
    assert not any("_ws.malformed" in one["_source"]["layers"] for one in shown)


def finished(packet: Packet) -> list[Packet]:
    result = finish(packet)
    assert not isinstance(result, DropReason)
    return result


@both_loops
async def test_a_reader_that_goes_away_ends_the_capture_with_a_note():
    read_end, write_end = os.pipe()
    notes: list[Note] = []
    capture = PcapPort(write_end, name="pipe", note=notes.append)
    capture.deliver([packet_of(frame(1))])
    os.close(read_end)
    assert capture.deliver([packet_of(frame(2))]) == 1
    assert capture.ended
    fields = (("port", "pipe"), ("reason", "the reader is gone"), ("unwritten", 1))
    assert notes[-1] == Note("capture_ended", fields, "warning")
    assert capture.state == "ended (the reader is gone)"
    assert capture.deliver([packet_of(frame(3)), packet_of(frame(4))]) == 2
    assert capture.losses() == {"unwritten": 1, "ended": 2}
    assert capture.counters["frames"] == 1
    capture.close()
    assert len(notes) == 2


@both_loops
async def test_frames_that_wait_when_the_reader_goes_are_counted_as_lost_even_if_they_are_half_written():
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    capture = PcapPort(write_end)
    assert capture.deliver([packet_of(frame(number, 1000)) for number in range(10)]) == 10
    got = len(os.read(read_end, 1 << 16))
    os.close(read_end)
    ended = asyncio.get_running_loop().time() + 20
    while not capture.ended:
        assert asyncio.get_running_loop().time() < ended
        await asyncio.sleep(0.001)
    assert got < 10 * 1000
    assert capture.counters["unwritten"] + capture.counters["frames"] == 10
    assert 6 <= capture.counters["unwritten"] < 10


@both_loops
async def test_a_file_that_takes_no_first_write_is_refused():
    notes: list[Note] = []
    with pytest.raises(ConfigError, match="capture file /dev/full: No space left on device"):
        PcapPort(Path("/dev/full"), note=notes.append)
    assert notes == []


@both_loops
@pytest.mark.parametrize("kind", [PcapPort, PcapReplay])
@pytest.mark.parametrize(("name", "says"), [("x" * 300, "File name too long"), ("a\0b", "not a path")])
async def test_paths_that_cannot_be_are_refused_in_one_line(tmp_path, kind, name, says):
    with pytest.raises(ConfigError, match=says) as refused:
        kind(tmp_path / name)
    assert "\n" not in str(refused.value)


@both_loops
@pytest.mark.parametrize("kind", [PcapPort, PcapReplay])
async def test_what_is_in_a_directory_that_may_not_be_searched_is_refused(tmp_path, kind):
    (tmp_path / "closed").mkdir(mode=0)
    ours = os.geteuid()
    if not ours:
        os.seteuid(65534)  # root may search everything
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            kind(tmp_path / "closed" / "file")
    finally:
        os.seteuid(ours)


@both_loops
async def test_a_slow_reader_costs_frames_but_whole_ones_and_no_more_memory(monkeypatch):
    monkeypatch.setattr(pcap_port, "MOST_WAITING", 200_000)
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    capture = PcapPort(write_end)
    for number in range(400):
        assert capture.deliver([packet_of(frame(number, 1000)), packet_of(frame(number, 1001))]) == 2
        assert capture._waiting_bytes < 300_000
    dropped = capture.counters["buffer_full"]
    assert dropped > 0
    assert capture.counters["frames"] + dropped == 800
    data = bytearray()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def readable() -> None:
        piece = os.read(read_end, 65536)
        data.extend(piece)
        if not piece:
            loop.remove_reader(read_end)
            done.set()

    loop.add_reader(read_end, readable)
    await capture.finish(30.0)
    await asyncio.wait_for(done.wait(), 30)
    os.close(read_end)
    got = [one.data for one in read_pcapng(io.BytesIO(bytes(data)))]
    assert len(got) == capture.counters["frames"]
    possible = {frame(number, size) for number in range(400) for size in (1000, 1001)}
    assert possible.issuperset(got)


@both_loops
async def test_a_capture_that_is_closed_while_its_reader_is_slow_leaves_the_loop_alone():
    read_end, write_end = os.pipe()
    capture = PcapPort(write_end)
    capture.deliver([packet_of(frame(number, 1500)) for number in range(100)])
    assert capture._waiting
    await capture.finish(0.01)
    capture.close()
    with os.fdopen(read_end, "rb") as reader:
        taken = reader.read()
    assert 0 < len(taken) < 100 * 1500
    await asyncio.sleep(0)


@both_loops
async def test_a_pipe_without_a_reader_is_looked_at_again_until_closed_or_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(pcap_port, "_LOOK_AGAIN_S", 0.01)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ended = asyncio.Event()
    notes: list[Note] = []

    def note(one: Note) -> None:
        notes.append(one)
        ended.set()

    closed = PcapPort(pipe, note=note)
    capture = PcapPort(pipe, note=note)
    closed.close()
    pipe.unlink()
    await asyncio.wait_for(ended.wait(), 20)
    assert [one.event for one in notes] == ["capture_ended"]
    assert "No such file" in str(dict(notes[0].fields)["reason"])
    assert capture.ended
    assert not closed.ended


@both_loops
async def test_what_is_no_capture_is_not_played(tmp_path):
    file = tmp_path / "file"
    for content, says in ((b"", "it is empty"), (b"hello, world", "not a pcapng file"), (b"\x0a\x0d", "cut short")):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            PcapReplay(file)


@both_loops
async def test_a_capture_without_frames_is_played_and_over(tmp_path):
    file = tmp_path / "file"
    with file.open("wb") as stream:
        PcapngWriter(stream.write).interface("alone")
    assert await PcapReplay(file).run() == 0


@both_loops
async def test_what_cannot_be_written_or_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"capture file .*/missing/x.pcapng: No such file or directory"):
        PcapPort(tmp_path / "missing" / "x.pcapng")
    with pytest.raises(ConfigError, match=r"capture file .*x.pcapng: No such file or directory"):
        PcapReplay(tmp_path / "x.pcapng")
    with pytest.raises(ConfigError, match="not a file"):
        PcapReplay(tmp_path)


def capture_file(path: Path, frames: list[tuple[int, bytes]], link_type: int = 1) -> None:
    with path.open("wb") as stream:
        writer = PcapngWriter(stream.write)
        writer.interface("first")
        other = writer.interface("other", link_type=101)
        writer.packet(other, 0, b"\x45" + bytes(40))
        for at, one in frames:
            writer.packet(0, at, one)


@both_loops
async def test_a_file_is_played_into_a_switch_in_its_order_and_other_link_types_are_skipped(tmp_path):
    file = tmp_path / "in.pcapng"
    frames = [frame(number) for number in range(300)]
    capture_file(file, [(number * 10**9, one) for number, one in enumerate(frames)] + [(0, b"runt")])
    switch = RunningSwitch(QUIET)
    guest = Guest("a")
    switch.plug(guest)
    replay = PcapReplay(file, speed=0)
    switch.plug(replay)
    guest.receive([packet_of(frame(0))])
    assert await replay.run() == 300
    assert guest.got == frames
    assert replay.counters == {"frames": 300, "skipped": 2}
    switch.close()


@both_loops
async def test_the_times_of_a_file_are_kept_at_the_speed_asked_for(tmp_path):
    file = tmp_path / "in.pcapng"
    capture_file(file, [(10**18 + number * 10**9, frame(number)) for number in range(5)])
    replay = PcapReplay(file, speed=40.0)
    loop = asyncio.get_running_loop()
    times: list[float] = []
    replay.receive = lambda packets: times.append(loop.time())
    began = loop.time()
    await replay.run()
    # Never early: 1 s of the file is 25 ms.  How late is the scheduler's affair.
    assert all(at - began >= number * 0.025 - 0.002 for number, at in enumerate(times))
    assert len(times) == 5


@both_loops
async def test_a_broken_file_is_played_up_to_where_it_breaks(tmp_path):
    file = tmp_path / "in.pcapng"
    capture_file(file, [(0, frame(number)) for number in range(5)])
    file.write_bytes(file.read_bytes()[:-5])
    replay = PcapReplay(file, speed=0)
    got: list[Packet] = []
    replay.receive = got.extend
    with pytest.raises(WireError, match="cut short"):
        await replay.run()
    assert len(got) == 4
