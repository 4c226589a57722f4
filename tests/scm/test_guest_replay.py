"""The driver machine against recordings of the real papr_scm: same answers, same hcalls in the same order.

What the driver decides: probe, remove, the cut of metadata accesses, the flush loop, when cached health is good enough.
What users decided in those runs, and the program below therefore states: which device, in which order, which command
(``ndctl list -H`` asks each device's health; ``ndctl disable-region`` flushes; ``inject-smart`` asks before and after).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from scm_guest_rig import CONFIG, Rig

from pvnet.capture.hcall_trace import HcallTrace, TraceCall, read_hcall_trace
from pvnet.papr.device_io import Probe, Remove
from pvnet.scm import pdsm
from pvnet.scm.guest import ScmState
from pvnet.scm.guest_interface import GUEST_POLICIES, ScmCommand, ScmGuestConfig, ScmGuestPolicy

VECTORS = Path(__file__).parents[1] / "vectors"
A, B, C = 0x90000000, 0x90000001, 0x90000002


@pytest.fixture(params=sorted(GUEST_POLICIES))
def policy(request: pytest.FixtureRequest) -> ScmGuestPolicy:
    return GUEST_POLICIES[request.param]


class Replay:
    """A recording's calls in order; a rig per device."""

    def __init__(self, name: str, policy: ScmGuestPolicy, first: int = 0) -> None:
        self.trace: HcallTrace = read_hcall_trace(VECTORS / f"linux-6.1-scm-{name}.jsonl")
        self.calls = [r for r in self.trace.records if isinstance(r, TraceCall) and r.n >= first]
        self.at = 0
        self.rigs = {
            device.drc: Rig(
                policy,
                ScmGuestConfig(
                    device.drc,
                    device.blocks,
                    device.block_size,
                    device.metadata_size,
                    is_hcall_flush_required=device.type == "spapr-nvdimm",
                ),
            )
            for device in self.trace.meta.devices
        }
        self.handles: dict[int, int] = {}

    def __call__(self, opcode: int, args: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        assert self.at < len(self.calls), f"{opcode:#x} {args} after the end of the recording"
        recorded = self.calls[self.at]
        assert (opcode, args) == (recorded.opcode, recorded.args), f"call {recorded.n}"
        self.at += 1
        registers = dict(enumerate(args, 4)) | dict(recorded.after)
        return recorded.rc, tuple(registers[number] for number in sorted(registers))

    def probe(self, *drcs: int, now: float = 0.0) -> None:
        for drc in drcs:
            self.rigs[drc].now = now
            self.rigs[drc].feed(Probe())
            self.rigs[drc].run(self)
            assert self.rigs[drc].guest.state is ScmState.READY
            self.handles[drc] = self.rigs[drc].open()

    def quiet_probe(self, *drcs: int, now: float) -> None:
        """A probe that took place before the recording began."""
        for drc in drcs:
            rig = self.rigs[drc]
            base = next(d.address for d in self.trace.meta.devices if d.drc == drc)
            answers = {0x3EC: (0, (drc, base, rig.guest.config.blocks)), 0x418: (-2, (drc,)), 0x3E4: (0, (0,))}
            answers[0x400] = 0, (0, 1 << 63)
            rig.now = now
            rig.probe(lambda opcode, args: answers[opcode])  # noqa: B023
            self.handles[drc] = rig.open()

    def command(self, drc: int, command: int, data: bytes = b"", now: float | None = None) -> tuple[int, bytes]:
        if now is not None:
            self.rigs[drc].now = now
        return self.rigs[drc].ioctl(self, self.handles[drc], command, data)

    def health(self, *drcs: int) -> None:
        for drc in drcs:
            assert self.command(drc, ScmCommand.CALL, pdsm.pdsm_request(pdsm.Pdsm.HEALTH).encode("little"))[0] == 0

    def get(self, drc: int, offset: int, length: int) -> bytes:
        """Read as ndctl does: transfers of 8 bytes, each a command of its own."""
        data = b""
        for at in range(offset, offset + length, 8):
            result, raw = self.command(drc, ScmCommand.GET_CONFIG_DATA, _two(at, 8))
            assert result == 0
            data += raw[12:]
        return data

    def set(self, drc: int, offset: int, data: bytes) -> None:
        for at in range(0, len(data), 8):
            request = _two(offset + at, 8) + data[at : at + 8]
            assert self.command(drc, ScmCommand.SET_CONFIG_DATA, request) == (0, b"")

    def finished(self) -> None:
        assert self.at == len(self.calls)
        assert not any(rig.open_calls for rig in self.rigs.values())


def _two(first: int, second: int) -> bytes:
    return first.to_bytes(4, "little") + second.to_bytes(4, "little")


def test_probe_of_three_devices_flags_health_unbind_and_bind(policy: ScmGuestPolicy) -> None:
    run = Replay("probe", policy)
    run.probe(B, C, A, now=1.33)
    assert [run.rigs[drc].guest.bound_address for drc in (A, B, C)] == [0x80000000, 0xA0000000, 0xB0000000]
    calls_of_probe = run.at
    assert run.command(A, ScmCommand.FLAGS, now=1.9) == (0, b"")
    assert run.command(B, ScmCommand.FLAGS, now=1.9) == (0, b"")
    assert run.command(C, ScmCommand.FLAGS, now=1.9) == (11, b"not_armed \n")
    assert run.at == calls_of_probe, "young health is cached"
    run.health(C, B, A)
    run.rigs[A].feed(Remove())
    run.rigs[A].run(run)
    assert run.rigs[A].guest.state is ScmState.ABSENT
    run.probe(A)
    run.finished()


def test_label_area_initialised_by_ndctl(policy: ScmGuestPolicy) -> None:
    run = Replay("labels-init", policy)
    run.quiet_probe(B, now=0.0)
    written = [call.args[2].to_bytes(8, "big") for call in run.calls if call.opcode == 0x3E8]
    first, second = b"".join(written[:64]), b"".join(written[64:])
    assert run.get(B, 0, 512) == bytes(512)  # check-labels
    run.get(B, 0, 512)  # init-labels
    run.set(B, 0, first)
    run.set(B, 0, second)
    assert run.get(B, 0, 512) == second
    assert run.get(B, 0, 512) == second  # check-labels
    run.finished()


def test_driver_itself_reads_512_bytes_in_one_go_as_recorded(policy: ScmGuestPolicy) -> None:
    """One large access gives the same hcalls as 64 small ones."""
    run = Replay("labels-init", policy)
    run.quiet_probe(B, now=0.0)
    assert run.command(B, ScmCommand.GET_CONFIG_DATA, _two(0, 512)) == (0, _two(0, 512) + bytes(516))
    assert run.at == 64


def test_flush_cached_health_inject(policy: ScmGuestPolicy) -> None:
    run = Replay("flush", policy)
    run.quiet_probe(A, B, C, now=1.3)
    for now in (8.307, 8.336, 8.362, 8.393):  # dd conv=fsync three times, deep_flush
        assert run.command(B, ScmCommand.FLUSH, now=now) == (0, b"")
    for drc in (B, C, A):
        run.command(drc, ScmCommand.FLAGS, now=8.42)
        assert run.command(drc, ScmCommand.DIRTY_SHUTDOWN) == (2, b"0\n")
        assert run.command(drc, ScmCommand.FLUSH if drc != B else ScmCommand.HEALTH_BITMAP_INJECT)[0] >= 0
    assert run.at == 8, "a device that needs no flush hcall makes none"
    for drc in (B, C, A):
        run.command(drc, ScmCommand.FLAGS, now=69.48)
    run.health(C, B, A)
    for inject in (pdsm.Inject(1, fatal=True), pdsm.Inject(3)):  # inject-smart -f, then -N
        run.health(B)
        package = pdsm.pdsm_request(pdsm.Pdsm.SMART_INJECT, inject.encode("little"))
        assert run.command(B, ScmCommand.CALL, package.encode("little"))[0] == 0
        run.health(B)
        if inject.fatal:
            assert run.command(B, ScmCommand.FLAGS) == (14, b"smart_notify \n")
            run.health(B)  # list -DH
    assert run.command(B, ScmCommand.FLUSH) == (0, b"")  # disable-region
    for offset, length in ((131072, 32), (131060, 64)):  # read-labels beyond the area
        assert run.command(B, ScmCommand.GET_CONFIG_DATA, _two(offset, length))[0] == -22
    assert run.command(B, ScmCommand.SET_CONFIG_DATA, _two(131068, 512) + bytes(512))[0] == -22
    run.finished()
    assert CONFIG.drc == A
