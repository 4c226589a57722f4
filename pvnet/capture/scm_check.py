"""Run a recorded trace of SCM hcalls against our hypervisor and compare every answer.

Each call passes the real dispatcher of a platform with :class:`~pvnet.scm.hypervisor.ScmHypervisor` and the recorded
devices; compared are the return code and every known register after the call.  A register that the hypervisor does not
write keeps its argument, or the preset if it was none; with an unknown preset it is not compared.  Registers beyond the
arguments hold the preset also when the call is made.

**Flushes.** A real flush takes time, and how long was chance.  A call that was recorded as busy must be busy; right
before a poll that was recorded with another answer the runner waits until that flush is done, and for no other one.

**What the recording does not say.** The machine may have lived before, and the description of its devices may be
incomplete.  Deduced from the recording as a whole, and counted in ``hidden``:

* a device that always says "unarmed" was unarmed, whatever the description says;
* when the first flush of a device got token *n*, then *n* - 1 had been there before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeAlias

from pvnet.capture.hcall_trace import HcallTrace, TraceCall, TraceScmDevice
from pvnet.capture.report import Report
from pvnet.core.errors import ConfigError, LocalError
from pvnet.papr.dispatch import MAX_ARGS
from pvnet.papr.drc import DrcType
from pvnet.papr.hcall import HcallOpcode, is_busy, rc_name
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    QEMU,
    HcallRequest,
    HcallResult,
    PartitionConfig,
    PartitionStarted,
    PlatformConfig,
)
from pvnet.papr.signatures import describe
from pvnet.papr.tce import low32
from pvnet.scm.calls import Health
from pvnet.scm.device import MemoryMetadata, MetadataStore, ScmDeviceConfig, ScmType
from pvnet.scm.hypervisor import ScmHypervisor
from pvnet.scm.hypervisor_io import ConnectorConfig, FlushDone, ScmHypervisorConfig, StartFlush
from pvnet.scm.profiles import PROFILES

GUEST: Final = "guest"
"""The partition that makes the recorded calls."""
_FIRST_REGISTER: Final = 4
_MEMORY_BYTES: Final = 1 << 30
_FLUSH: Final = HcallOpcode.H_SCM_FLUSH
_HEALTH: Final = HcallOpcode.H_SCM_HEALTH
_EARLIER_FLUSHES: Final = 65536
"""Most flushes that a recording may have missed."""


class ScmTarget(Protocol):
    """What a trace is run against: a hypervisor with the recorded devices, here or at the other end of a transport."""

    def hcall(self, opcode: int, args: tuple[int, ...]) -> HcallResult:
        """Make a call from the guest."""
        ...

    def finish_flush(self, drc: int, token: int) -> None:
        """Return when this flush is done; at once when it is, or when there is none."""
        ...


ScmTargetFactory: TypeAlias = Callable[[ScmHypervisorConfig, dict[tuple[str, int], MemoryMetadata]], ScmTarget]
"""Makes the target of a configuration with these contents of the metadata areas; the guest is :data:`GUEST`."""


class LocalScmTarget:
    """The hypervisor machine in this process; a flush is done when the runner says so."""

    def __init__(self, config: ScmHypervisorConfig, stores: Mapping[tuple[str, int], MetadataStore]) -> None:
        guest = PartitionConfig(GUEST, _MEMORY_BYTES)
        self._platform = Platform(PlatformConfig((guest,), QEMU), [ScmHypervisor(config, stores)])
        self._platform.feed(PartitionStarted(GUEST), 0.0)
        self.flushes: dict[tuple[int, int], int] = {}
        """Flushes under way: (DRC index, token) to what the machine calls it."""

    def hcall(self, opcode: int, args: tuple[int, ...]) -> HcallResult:
        """Make a call from the guest."""
        result, *consequences = self._platform.feed(HcallRequest(GUEST, 1, opcode, args), 0.0)
        assert isinstance(result, HcallResult), "no recorded call needs the guest's memory"
        for output in consequences:
            if isinstance(output, StartFlush):
                self.flushes[output.drc, result.outs[0]] = output.tag
        return result

    def finish_flush(self, drc: int, token: int, error: int = 0) -> None:
        """Let this flush be done, or have failed with a Linux errno."""
        tag = self.flushes.pop((drc, token), None)
        if tag is not None:
            self._platform.feed(FlushDone(tag, error), 0.0)


def run_scm_trace(trace: HcallTrace, make_target: ScmTargetFactory = LocalScmTarget) -> Report:
    """Compare; see the module's text.  Raises :class:`ConfigError` for a trace that cannot be run."""
    return ScmTraceRunner(trace, make_target).run()


class ScmTraceRunner:
    """One trace; ``hidden`` counts what was deduced."""

    def __init__(self, trace: HcallTrace, make_target: ScmTargetFactory = LocalScmTarget) -> None:
        self.trace = trace
        self.report = Report(trace.name)
        self.hidden: Counter[str] = Counter()
        self._calls = [record for record in trace.records if isinstance(record, TraceCall)]
        meta = trace.meta
        if meta.profile not in PROFILES:
            raise ConfigError(f"{trace.name}:1: profile {meta.profile!r}: expected one of {', '.join(PROFILES)}")
        try:
            self._target = self._make(make_target)
        except LocalError as error:
            raise ConfigError(f"{trace.name}:1: {error}") from None

    def _make(self, make_target: ScmTargetFactory) -> ScmTarget:
        meta = self.trace.meta
        devices = tuple(self._device(device) for device in meta.devices)
        stores = {
            (GUEST, device.drc): MemoryMetadata(config.metadata_size, device.metadata_preset)
            for device, config in zip(meta.devices, devices, strict=True)
        }
        connectors = [ConnectorConfig(GUEST, drc) for drc in meta.empty_pmem_drcs]
        connectors += [ConnectorConfig(GUEST, drc, _kind(drc)) for drc in meta.other_drcs]
        target = make_target(ScmHypervisorConfig(devices, tuple(connectors), PROFILES[meta.profile]), stores)
        for device in devices:
            if device.needs_flush:
                self._flush_before(target, device.drc)
        return target

    def _device(self, device: TraceScmDevice) -> ScmDeviceConfig:
        name = self.trace.name
        try:
            kind = ScmType(device.type)
        except ValueError:
            expected = ", ".join(kind.value for kind in ScmType)
            raise ConfigError(f"{name}:1: device type {device.type!r}: expected one of {expected}") from None
        if len(device.metadata_preset) > device.metadata_size:
            raise ConfigError(f"{name}:1: metadata_preset: expected at most {device.metadata_size} bytes")
        config = ScmDeviceConfig(
            partition=GUEST,
            drc=device.drc,
            blocks=device.blocks,
            address=device.address,
            block_size=device.block_size,
            metadata_size=device.metadata_size,
            type=kind,
            profile=PROFILES[self.trace.meta.profile],
            is_unarmed=device.is_unarmed,
            is_readonly=device.is_readonly,
        )
        seen = {
            call.after.get(4)
            for call in self._calls
            if call.opcode == _HEALTH and call.rc == 0 and _drc(call.args) == device.drc
        }
        if not config.is_unarmed and seen == {int(Health.UNARMED)}:
            self.hidden["device is unarmed"] += 1
            config = replace(config, is_unarmed=True)
        return config

    def _flush_before(self, target: ScmTarget, drc: int) -> None:
        """Make the flushes that were there before the recording began."""
        first = next(
            (
                call.after.get(4, 1)
                for call in self._calls
                if call.opcode == _FLUSH and is_busy(call.rc) and _drc(call.args) == drc and not any(call.args[1:2])
            ),
            1,
        )
        for _ in range(min(first - 1, _EARLIER_FLUSHES)):
            self.hidden["flush before the recording"] += 1
            token = target.hcall(_FLUSH, (drc,)).outs[0]
            target.finish_flush(drc, token)
            target.hcall(_FLUSH, (drc, token))

    def run(self) -> Report:
        """Make all calls in order."""
        for call in self._calls:
            self._compare(call)
        return self.report

    def _compare(self, record: TraceCall) -> None:
        args = record.args
        if record.opcode == _FLUSH and len(args) > 1 and args[1] and not is_busy(record.rc):
            self._target.finish_flush(low32(args[0]), args[1])
        preset = self.trace.meta.preset
        sent = args if preset is None else args + (preset,) * (MAX_ARGS - len(args))
        result = self._target.hcall(record.opcode, sent)
        what = describe(record.opcode, args)
        if result.rc != record.rc:
            self.report.fail(record.n, what, rc_name(record.rc), rc_name(result.rc))
            return
        for register, value in sorted(record.after.items()):
            ours = _register(register - _FIRST_REGISTER, sent, result.outs)
            if ours is not None and ours != value:
                self.report.fail(record.n, f"{what}: r{register} after the call", f"{value:#x}", f"{ours:#x}")
                return
        self.report.passed += 1


def _register(index: int, sent: Sequence[int], outs: Sequence[int]) -> int | None:
    """What a register holds after a call, or ``None`` when nobody knows."""
    for known in (outs, sent):
        if index < len(known):
            return known[index]
    return None


def _drc(args: Sequence[int]) -> int | None:
    return low32(args[0]) if args else None


def _kind(drc: int) -> DrcType:
    """Kind of a connector that is none of SCM's: by its index as QEMU makes them, else memory."""
    kinds = {int(kind): kind for kind in DrcType if kind is not DrcType.PMEM}
    return kinds.get(drc >> 28, DrcType.LMB)
