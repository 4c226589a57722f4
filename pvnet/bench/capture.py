"""``capture/…``: how fast captures are written and read, and what recording costs the traffic.

``write`` and ``read`` stand beside other writers and readers of pcapng in Python, if they are installed, with the same
records in a file.  ``vmc-overhead`` is the echo of ``vmc/echo-64`` in a lab of which every process records its messages
(``PVNET_SNOOP``), in turns with a lab that records nothing; ``notes.record`` is the same for ``pvnet record``, which
comes and goes beside one lab (not with ``--quick``).  ``ring-overhead`` is ``ring/64B-batched`` between processes that
record: contents of a ring are not copied for a capture; its doorbells, messages in a lab, are recorded here too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final

from pvnet.bench.messages import BATCH
from pvnet.bench.pair import Plan, compare_pairs, open_pair
from pvnet.bench.pair_end import Told
from pvnet.bench.placement import Placement
from pvnet.bench.report import Result, Series
from pvnet.bench.ring_end import RingEnd
from pvnet.bench.rounds import OURS
from pvnet.capture.model import Direction, Interface
from pvnet.capture.pvcap import CaptureReader, CaptureWriter, make_info
from pvnet.capture.snoop import SnoopSink
from pvnet.client import Lab, VmcSession
from pvnet.core.errors import UnreachableError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.runtime.snoop import SNOOP_VARIABLE
from pvnet.runtime.topology import BrokerConfig, LabConfig, ManagerConfig, PartitionConfig, Topology

CASES: Final = ("write", "read", "vmc-overhead", "ring-overhead")
UNRECORDED: Final = "unrecorded"
RECORDED: Final = "pvnet-recorded"
_PEERS: Final = {"python-pcapng": "pcapng", "dpkt": "dpkt"}
_SLOWER: Final = 20
"""Peers write and read so many times fewer records."""
_ECHO_BYTES: Final = 32
"""Beside the header of 32: 64 in all."""
_PATIENCE_S: Final = 20.0
_RECORD: Final = "from pvnet.cli.main import main; main()"


async def bench_capture(
    *, quick: bool, broker: str, cases: Collection[str], tell: Callable[[str], None]
) -> list[Result]:
    """Measure the cases; returns rates, round trip times, and what recording makes of them."""
    results: list[Result] = []
    if "write" in cases or "read" in cases:
        results += _files(cases, tell, rounds=3 if quick else 7, count=10_000 if quick else 60_000)
    if "vmc-overhead" in cases:
        results.append(await _vmc_overhead(broker, tell, quick=quick))
    if "ring-overhead" in cases:
        results.append(await _ring_overhead(tell, quick=quick))
    return results


# --- files -----------------------------------------------------------------------------------------------------------


def sample(number: int) -> bytes:
    """Return a message as a lab has them, with its number."""
    envelope = Envelope(schema=1, lab="bench", source="lpar1", destination="hypervisor", seq=number, correlation=number)
    envelope.hcall.opcode = 0x104
    envelope.hcall.args.extend((0x30000000, 0xC0020100 << 32 | number, 0))
    return envelope.SerializeToString()


def _files(cases: Collection[str], tell: Callable[[str], None], *, rounds: int, count: int) -> list[Result]:
    peers = [name for name, module in _PEERS.items() if importlib.util.find_spec(module) is not None]
    missing = [name for name in _PEERS if name not in peers]
    if missing:
        tell(f"peers of capture/write and capture/read that are not installed: {', '.join(missing)}")
    samples = [sample(number) for number in range(1000)]
    rates = {verb: {name: Series() for name in (OURS, *peers)} for verb in ("write", "read")}
    lost = 0
    with tempfile.TemporaryDirectory(prefix="pvnet-bench-") as folder:
        for number in range(rounds):
            for name in (OURS, *peers) if number % 2 == 0 else (*reversed(peers), OURS):
                records = count if name == OURS else count // _SLOWER
                path = Path(folder) / name
                start = time.perf_counter()
                with path.open("wb") as stream:
                    _WRITERS[name](stream, samples, records)
                between = time.perf_counter()
                with path.open("rb") as stream:
                    right = _READERS[name](stream, samples)
                end = time.perf_counter()
                rates["write"][name].values.append(records / (between - start))
                rates["read"][name].values.append(records / (end - between))
                if name == OURS:
                    lost += records - right
                elif right != records:
                    raise UnreachableError(f"{name} read {right} of {records} records")
    results = []
    for verb, shown in rates.items():
        if verb in cases:
            others = {name: shown[name] for name in peers}
            notes = {"records": count, "record_bytes": len(samples[-1])}
            result = Result("capture", verb, "per_s", "1/s", shown[OURS], others, lost, notes)
            results.append(result)
            line = f"capture/{verb}: {shown[OURS].median:.0f} records/s, {lost} lost"
            for name, each in others.items():
                line += f"; {name} {each.median:.0f}/s (we: {result.ratios[name]:.1f} x)"
            tell(line)
    return results


def _write(stream: BinaryIO, samples: Sequence[bytes], count: int) -> None:
    writer = CaptureWriter(stream.write, make_info())
    interface = Interface("lpar1/hcall")
    for number in range(count):
        data = samples[number % len(samples)]
        writer.record(interface, 1_700_000_000_000_000_000 + number, data, direction=Direction.OUT)


def _read(stream: BinaryIO, samples: Sequence[bytes]) -> int:
    return sum(
        record.data == samples[number % len(samples)] for number, record in enumerate(CaptureReader(stream, "bench"))
    )


def _write_pcapng(stream: BinaryIO, samples: Sequence[bytes], count: int) -> None:
    from pcapng import FileWriter  # type: ignore[import-untyped]
    from pcapng.blocks import (  # type: ignore[import-untyped]
        EnhancedPacket,
        InterfaceDescription,
        SectionHeader,
    )

    section = SectionHeader(options={"shb_userappl": "bench"})
    section.new_member(InterfaceDescription, link_type=147, options={"if_name": "lpar1/hcall"})
    writer = FileWriter(stream, section)
    for number in range(count):
        stamp = 1_700_000_000_000_000 + number  # microseconds: with if_tsresol it warns
        packet = section.new_member(EnhancedPacket, interface_id=0, options={"epb_flags": 2})
        packet.timestamp_high, packet.timestamp_low = stamp >> 32, stamp & 0xFFFFFFFF
        packet.packet_data = samples[number % len(samples)]
        writer.write_block(packet)


def _read_pcapng(stream: BinaryIO, samples: Sequence[bytes]) -> int:
    from pcapng import FileScanner
    from pcapng.blocks import EnhancedPacket

    packets = (block for block in FileScanner(stream) if isinstance(block, EnhancedPacket))
    return sum(packet.packet_data == samples[number % len(samples)] for number, packet in enumerate(packets))


def _write_dpkt(stream: BinaryIO, samples: Sequence[bytes], count: int) -> None:
    pcapng: Any = import_module("dpkt.pcapng")

    writer = pcapng.Writer(stream)
    for number in range(count):
        writer.writepkt(samples[number % len(samples)], 1_700_000_000 + number / 1e9)


def _read_dpkt(stream: BinaryIO, samples: Sequence[bytes]) -> int:
    pcapng: Any = import_module("dpkt.pcapng")

    packets = enumerate(pcapng.Reader(stream))
    return sum(bytes(data) == samples[number % len(samples)] for number, (_, data) in packets)


_WRITERS: Final = {OURS: _write, "python-pcapng": _write_pcapng, "dpkt": _write_dpkt}
_READERS: Final = {OURS: _read, "python-pcapng": _read_pcapng, "dpkt": _read_dpkt}

# --- the echo of a lab -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _session(broker: str, snoop: str) -> AsyncIterator[tuple[Lab, VmcSession]]:
    """Start a lab whose processes, this one included, record into ``snoop`` (``off``: not), and a session in it."""
    name = f"bench-{os.getpid()}-{secrets.token_hex(2)}"
    lab = Lab(
        Topology(
            lab=LabConfig(name=name, unix=False),  # over the broker, as bench vmc does it
            broker=BrokerConfig(use=broker),
            partition=[PartitionConfig(name="mp", management=True)],
            manager=ManagerConfig(),
        )
    )
    async with AsyncExitStack() as stack:
        before = os.environ.get(SNOOP_VARIABLE)
        os.environ[SNOOP_VARIABLE] = snoop
        try:
            await stack.enter_async_context(lab)
        finally:
            if before is None:
                del os.environ[SNOOP_VARIABLE]
            else:
                os.environ[SNOOP_VARIABLE] = before
        session = await stack.enter_async_context(lab.vmc_session("pvnet-bench"))
        await session.router_open()
        yield lab, session
        await session.router_close()


async def _echoes(session: VmcSession, count: int) -> tuple[float, int]:
    """Return the median of so many round trips, and how many were wrong."""
    times, wrong = Series(), 0
    data = bytes(_ECHO_BYTES)
    for _ in range(count):
        start = time.perf_counter()
        wrong += (await session.echo(data)) != data
        times.values.append(time.perf_counter() - start)
    return times.median, wrong


@asynccontextmanager
async def _recorder(lab: str, path: Path) -> AsyncIterator[None]:
    """``pvnet record``, while it does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _RECORD, "record", "--lab", lab, "-o", str(path)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(_PATIENCE_S):
            said = b""
            while not said.startswith(b"recording "):
                said = await process.stderr.readline()
                if not said:
                    raise UnreachableError("pvnet record did not start")
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.communicate(), _PATIENCE_S)
        except TimeoutError:
            process.kill()
            await process.communicate()


async def _vmc_overhead(broker: str, tell: Callable[[str], None], *, quick: bool) -> Result:
    rounds, count, cycles = (8, 12, 0) if quick else (40, 50, 3)
    recorded, plain, tapped, untapped = Series(), Series(), Series(), Series()
    lost = 0

    async def measure(session: VmcSession, into: Series) -> None:
        nonlocal lost
        middle, wrong = await _echoes(session, count)
        into.values.append(middle)
        lost += wrong

    with tempfile.TemporaryDirectory(prefix="pvnet-bench-") as folder:
        file = Path(folder) / "lab.pvcap.pcapng"
        async with _session(broker, "off") as (lab, bare), _session(broker, f"pcapng:{file}") as (_, snooped):
            for session in (bare, snooped):
                await _echoes(session, 20)
            for number in range(rounds):
                pair = ((bare, plain), (snooped, recorded))
                for session, into in pair if number % 2 == 0 else reversed(pair):
                    await measure(session, into)
            for _ in range(cycles):  # not - recorded - recorded - not: a machine that slows down slows both
                for _ in range(5):
                    await measure(bare, untapped)
                async with _recorder(lab.name, Path(folder) / "record.pcapng"):
                    for _ in range(10):
                        await measure(bare, tapped)
                for _ in range(5):
                    await measure(bare, untapped)
        kept, dropped = _kept(Path(folder))
    notes: dict[str, Any] = {
        "recorded": "PVNET_SNOOP in every process",
        "records": kept,
        "dropped": dropped,
        "ratio_of_fastest": min(recorded.values) / min(plain.values),
    }
    beside = ""
    if cycles:
        ratio = tapped.median / untapped.median
        notes["record"] = {"round_trip_s": tapped.median, "unrecorded_s": untapped.median, "ratio": ratio}
        beside = f"with pvnet record {ratio:.2f} x; "
    tell(
        f"capture/vmc-overhead: echo {recorded.median * 1e3:.2f} ms recorded, {plain.median * 1e3:.2f} ms not: "
        f"{recorded.median / plain.median:.2f} x; {beside}"
        f"{kept} records, {dropped} dropped, {lost} lost"
    )
    return Result("capture", "vmc-overhead", "round_trip_s", "s", recorded, {UNRECORDED: plain}, lost, notes)


def _kept(folder: Path) -> tuple[int, int]:
    """How many records the files of the snoop have, and how many were dropped."""
    kept = dropped = 0
    for path in folder.glob("lab*.pcapng"):
        with path.open("rb") as stream:
            reader = CaptureReader(stream, str(path))
            kept += sum(1 for _ in reader)
            dropped += sum(reader.info.dropped.values())
    return kept, dropped


# --- a ring ----------------------------------------------------------------------------------------------------------


class RecordedRingEnd(RingEnd):
    """Our end of a ring in a process that records.  Option ``snoop``: where to."""

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        node = "first" if told.first else "second"
        self._sink = SnoopSink.open(told.options.get("snoop", "pcapng:/dev/null"), node, is_shared=True)
        doorbell = Envelope(schema=1, lab="bench", source=node, destination="peer")
        doorbell.vbus_doorbell.SetInParent()
        for side in (self._channel._producer, self._channel._consumer):
            side._doorbell = self._recorded(side._doorbell, doorbell)

    def _recorded(self, ring: Callable[[], None], doorbell: Envelope) -> Callable[[], None]:
        tap = self._sink.tap

        def both() -> None:
            tap("out", doorbell)
            ring()

        return both

    def facts(self) -> dict[str, Any]:
        """How often it slept and rang, and what was recorded."""
        received, dropped = sum(self._sink.received.values()), sum(self._sink.dropped.values())
        return {**super().facts(), "recorded": received - dropped, "dropped": dropped}


async def _ring_overhead(tell: Callable[[str], None], *, quick: bool) -> Result:
    plan = Plan(8, 1500 * BATCH, 500 * BATCH, BATCH) if quick else Plan(21, 8000 * BATCH, 1000 * BATCH, BATCH)
    placement = Placement.apart_or_together()
    with tempfile.TemporaryDirectory(prefix="pvnet-bench-") as folder:
        options = {"arrays": True, "snoop": f"pcapng:{Path(folder) / 'ring.pvcap.pcapng'}"}
        async with AsyncExitStack() as stack:
            pairs = [
                await stack.enter_async_context(open_pair(name, placement, one_way=True, options=options))
                for name in (OURS, RECORDED)
            ]
            shown = await compare_pairs(pairs, plan, one_way=True)
    ours, plain = shown[RECORDED], shown[OURS]
    notes = {
        "placement": str(placement),
        "recorded": "doorbells; contents of a ring are not copied",
        "messages_per_round": plan.count,
        "facts": {RECORDED: ours.facts, UNRECORDED: plain.facts},
    }
    others = {UNRECORDED: plain.per_s}
    result = Result("capture", "ring-overhead", "per_s", "1/s", ours.per_s, others, plain.wrong, notes)
    tell(
        f"capture/ring-overhead ({placement}): {ours.per_s.median / 1e6:.2f} M/s recorded, "
        f"{plain.per_s.median / 1e6:.2f} M/s not: {result.ratios[UNRECORDED]:.2f} x"
    )
    return result
