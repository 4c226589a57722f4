"""``pvnet record`` of a lab of real processes, read back by ourselves and by Wireshark's tools."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from pvnet.capture.model import LINKTYPE_ENVELOPE, LINKTYPE_ETHERNET, LINKTYPE_MEMORY, Direction, Record
from pvnet.capture.pvcap import CaptureWriter, make_info, open_capture
from pvnet.client import Lab
from pvnet.client.recorder import Recorder
from pvnet.client.vbus import VbusHost
from pvnet.runtime.snoop import topology_json
from pvnet.runtime.topology import Topology, default_topology


def small(name: str, *, unix: bool) -> Topology:
    made = default_topology(name)
    return made.model_copy(update={"lab": made.lab.model_copy(update={"unix": unix, "ready_timeout_s": 60.0})})


async def recorded(lab: Lab, file: Path, snaplen: int) -> Recorder:
    """Echoes over the VMC, a partition powered on, pings to it: into ``file``."""
    with file.open("wb") as out:
        writer = CaptureWriter(out.write, make_info(topology_json(lab.topology)))
        async with Recorder(lab, writer, snaplen=snaplen) as recorder:
            session = lab.vmc_session("recorded")
            async with session:
                await session.router_open()
                for number in range(20):
                    assert await session.echo(bytes([number]) * 100) == bytes([number]) * 100
                await session.router_close()
            await lab.power_on("lpar2")
            result = await VbusHost(lab).ping("lpar1", "10.77.0.2", count=5, interval_s=0.01)
            assert result["received"] == 5
        return recorder


@pytest.mark.slow
@pytest.mark.parametrize("unix", [True, False])
async def test_everything_is_in_the_file_once(tmp_path: Path, unix: bool) -> None:
    file = tmp_path / "lab.pvcap.pcapng"
    async with Lab(small("rec", unix=unix), base=tmp_path / "labs") as lab:
        recorder = await asyncio.wait_for(recorded(lab, file, 128), 100)
        assert not recorder.problems
        assert not recorder.dropped
    with open_capture(file) as capture:
        records = list(capture)
        assert not capture.problems
        assert capture.info.schema
        assert '"lpar2"' in capture.info.topology
    assert len(records) == sum(recorder.received.values())
    assert [r.time_ns for r in records] == sorted(r.time_ns or 0 for r in records)
    seen = Counter(_identity(record) for record in records if record.interface.link_type == LINKTYPE_ENVELOPE)
    twice = [r for r in records if r.interface.link_type == LINKTYPE_ENVELOPE and seen[_identity(r)] > 1]
    assert not twice, [(r.number, r.interface.name, int(r.direction), _body(r), r.time_ns) for r in twice][:4]
    bodies = Counter(_body(record) for record in records if record.interface.link_type == LINKTYPE_ENVELOPE)
    assert bodies["device_io"] >= 40
    assert bodies["hcall"] >= 40
    assert abs(bodies["hcall"] - bodies["hcall_reply"]) <= 4  # those under way when it began and ended
    assert bodies["crq_entry"] >= 20
    frames = [record for record in records if record.interface.link_type == LINKTYPE_ETHERNET]
    assert sum(b"\x08\x00\x45" in record.data for record in frames) >= 10
    copies = [record for record in records if record.interface.link_type == LINKTYPE_MEMORY]
    if unix:  # over the broker the messages carry the bytes
        assert any(bytes([7]) * 90 in record.data for record in copies)
    else:
        assert not copies
    assert {r.direction for r in records} == {Direction.IN, Direction.OUT}


@pytest.mark.needs("capinfos")
@pytest.mark.slow
async def test_other_tools_count_the_same(tmp_path: Path) -> None:
    file = tmp_path / "lab.pvcap.pcapng"
    async with Lab(small("rec2", unix=True), base=tmp_path / "labs") as lab:
        recorder = await asyncio.wait_for(recorded(lab, file, 64), 100)
    process = await asyncio.create_subprocess_exec(
        "capinfos", "-c", "-M", str(file), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert f"Number of packets:   {sum(recorder.received.values())}" in out.decode()


def _body(record: Record) -> str:
    envelope = record.envelope()
    assert envelope is not None
    return envelope.WhichOneof("body") or ""


def _identity(record: Record) -> tuple[str, int, str, int, int]:
    envelope = record.envelope()
    assert envelope is not None
    where = (envelope.source, envelope.source_incarnation, envelope.destination, envelope.stream)
    return (*where, envelope.seq or record.number)
