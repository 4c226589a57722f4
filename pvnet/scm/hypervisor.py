"""The SCM hypervisor: ten hcalls on the devices of all partitions, as an extension of the platform machine.

A call passes the platform's dispatcher, then the order of checks of the reference, which is the same for both profiles
(:mod:`pvnet.scm.profiles` says where they differ): device, continuation token, arguments, state.

**Devices** hang on connectors (:class:`~pvnet.papr.drc.DrcTable`, one per partition).  A register names a device by
its low 32 bits; an unknown index, an empty connector and one of another kind are the same failure.

**Long operations** (bind and unbind in steps, flush) are continuations: :mod:`pvnet.papr.continuation`.  The start of
an unbind ends every unfinished bind and unbind that it touches, because the newest wish counts and a guest that was
killed in the middle must not be in the way of the next one; the tokens of what was ended are refused.  An unfinished
bind reserves its blocks and addresses.  A flush is really asynchronous: the first call starts it (StartFlush) and is
always busy, FlushDone settles it, and its token answers exactly once.

**Life.** When a partition dies its tokens are forgotten, flushes go on but nobody hears of them, and bindings of a
device that keeps them stay (that is why H_OVERLAP exists).  When it starts, what is bound is mapped again.

Doubts decided.  Beyond the limit of open operations the answer is busy with token 0, so that the caller starts again.
A statistics request whose buffer is wrong in itself is H_P2 (content, place) or H_P3 (length); the diagnostic of
H_PARTIAL is the number, from 1, of the first unknown entry, known ones are filled in and unknown ones 0.  The buffer
needs no alignment.  QUERY_LOGICAL has no bad argument: what is not bound is H_NOT_FOUND.

Spec: hcall_scm 3, 6.1, 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, assert_never

from pvnet.core.errors import LocalError
from pvnet.core.machine import Counters, Note
from pvnet.papr.continuation import Continuations, Place
from pvnet.papr.devicetree import Node, text, u32
from pvnet.papr.dispatch import Answer, Call
from pvnet.papr.drc import DrcTable, DrcType
from pvnet.papr.extension import Caller, ExtensionInput, ExtensionOutput
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.tce import low32
from pvnet.scm import calls as scm
from pvnet.scm.bind_calls import BindCalls, ScmPartition, Work
from pvnet.scm.device import Fault, MetadataStore, ScmDevice, ScmDeviceConfig, device_node
from pvnet.scm.flush_calls import FlushCalls
from pvnet.scm.hypervisor_io import (
    AttachDevice,
    BlockPlace,
    DetachDevice,
    FlushDone,
    MapBlocks,
    ScmHypervisorConfig,
    ScmInput,
    SetHealth,
    SetScmFault,
    SetStatistics,
    UnmapBlocks,
)
from pvnet.scm.stats import Statistic
from pvnet.scm.stats_call import statistics_call

_OK: Final = Answer(HcallRc.H_SUCCESS)
_BAD: Final = Answer(HcallRc.H_PARAMETER)
_HARDWARE: Final = Answer(HcallRc.H_HARDWARE)
_FUNCTION: Final = Answer(HcallRc.H_FUNCTION)
_P2: Final = Answer(HcallRc.H_P2)
_P3: Final = Answer(HcallRc.H_P3)
_P4: Final = Answer(HcallRc.H_P4)
_INPUTS: Final = (FlushDone, SetHealth, SetStatistics, SetScmFault, AttachDevice, DetachDevice)
_U64: Final = 1 << 64


class ScmHypervisor:
    """An :class:`~pvnet.papr.extension.HcallExtension`; see the module's text.

    :param stores: metadata of every configured device, by partition and DRC index.
    :param now: time (seconds) at which the devices are switched on.
    :raises LocalError: an index is used twice, devices of a partition overlap, or a store is missing.
    """

    def __init__(
        self, config: ScmHypervisorConfig, stores: Mapping[tuple[str, int], MetadataStore], *, now: float = 0.0
    ) -> None:
        self.config = config
        self.counters = Counters()
        self._out: list[ExtensionOutput | Note] = []
        self._now = now
        self._partitions: dict[str, ScmPartition] = {}
        self._tokens: Continuations[Work] = Continuations(config.operation_limit)
        self._binds = BindCalls(self._tokens, config.profile, self._out.append)
        self._flushes = FlushCalls(self._tokens, self.counters, self._out.append)
        for connector in config.connectors:
            self._partition(connector.partition).drcs.add(connector.drc, connector.kind)
        for device in config.devices:
            store = stores.get((device.partition, device.drc))
            if store is None:
                raise LocalError(f"SCM device {device.drc:#x} of {device.partition} has no metadata store")
            self._attach(device, store)
        self._handlers: dict[int, Callable[[ScmPartition, Caller, Call], Answer | None]] = {
            HcallOpcode.H_SCM_UNBIND_ALL: self._unbind_all,
            HcallOpcode.H_SCM_QUERY_LOGICAL_MEM_BINDING: lambda p, _, call: self._binds.query_logical(p, call),
        }
        self._device_handlers: dict[int, Callable[[ScmDevice, Caller, Call], Answer | None]] = {
            HcallOpcode.H_SCM_READ_METADATA: lambda d, _, call: self._read_metadata(d, call),
            HcallOpcode.H_SCM_WRITE_METADATA: lambda d, _, call: self._write_metadata(d, call),
            HcallOpcode.H_SCM_BIND_MEM: lambda d, c, call: self._binds.bind(self._partitions[c.name], d, c, call),
            HcallOpcode.H_SCM_UNBIND_MEM: lambda d, c, call: self._binds.unbind(self._partitions[c.name], d, call),
            HcallOpcode.H_SCM_QUERY_BLOCK_MEM_BINDING: lambda d, _, call: self._binds.query_block(d, call),
            HcallOpcode.H_SCM_HEALTH: lambda d, _, _call: Answer(HcallRc.H_SUCCESS, d.health()),
            HcallOpcode.H_SCM_PERFORMANCE_STATS: self._statistics,
            HcallOpcode.H_SCM_FLUSH: lambda d, c, call: self._flushes.flush(c.name, d, call, self._now),
        }

    # -- the extension -----------------------------------------------------------------------------------------------

    @property
    def opcodes(self) -> frozenset[int]:
        """The ten hcalls."""
        return frozenset({*self._handlers, *self._device_handlers})

    def handle(self, caller: Caller, call: Call, now: float) -> Answer | None:
        """Answer a call; never raises, whatever the registers hold."""
        self._now = now
        partition = self._partition(caller.name)
        profiles = (self.config.profile, *(device.profile for device in partition.devices()))
        if not any(call.opcode in profile.calls for profile in profiles):
            return _FUNCTION
        handler = self._handlers.get(call.opcode)
        if handler is not None:
            return handler(partition, caller, call)
        device = partition.drcs.find(call.args[0], DrcType.PMEM)
        if device is None:
            return _BAD
        if call.opcode not in device.profile.calls:
            return _FUNCTION
        fault = device.take_fault(call.opcode)
        if fault is not None:
            return Answer(fault.rc, fault.outs)
        return self._device_handlers[call.opcode](device, caller, call)

    def accepts(self, event: ExtensionInput) -> bool:
        """Whether it is one of :data:`~pvnet.scm.hypervisor_io.ScmInput`."""
        return isinstance(event, _INPUTS)

    def feed(self, event: ExtensionInput, now: float) -> list[ExtensionOutput | Note]:
        """Consume an input.

        :raises LocalError: it names a device that is not there, or is not for this extension.
        """
        self._now = now
        if not isinstance(event, _INPUTS):
            raise LocalError(f"{event!r} is not for SCM")
        self._feed(event)
        return self.take()

    def _feed(self, event: ScmInput) -> None:
        match event:
            case FlushDone(tag, error):
                self._flushes.done(tag, error, self._now)
            case SetHealth(partition, drc, health):
                device = self.device(partition, drc)
                device.forced_health = health
                if health is None:
                    device.failed = scm.Health(0)
            case SetStatistics(partition, drc, values, access):
                device = self.device(partition, drc)
                if not all(0 <= value < _U64 for value in values.values()):
                    raise LocalError("statistics: expected unsigned 64-bit values")
                device.values.update(values)
                device.access = access or device.access
            case SetScmFault(partition, drc, opcode, rc, outs, count):
                if count < 0 or len(outs) > 9 or not all(0 <= out < _U64 for out in outs):
                    raise LocalError(f"{event!r}: expected a count from 0 and at most nine 64-bit outputs")
                faults = self.device(partition, drc).faults
                faults.pop(opcode, None)
                if count:
                    faults[opcode] = Fault(int(rc), outs, count)
            case AttachDevice(config, store):
                device = self._attach(config, store)
                if self._partition(config.partition).started:
                    self._map(device)
            case DetachDevice(partition, drc):
                self._detach(partition, drc)
            case _:
                assert_never(event)

    def started(self, partition: str, memory_bytes: int, now: float) -> None:
        """A partition has come up: what is bound is mapped, and devices count a reset.

        A device whose place lies in the partition's memory is not usable; that is noted.
        """
        self._now = now
        state = self._partition(partition)
        state.started = True
        for device in state.devices():
            device.count(Statistic.CTL_RES_CNT)
            self._map(device)
            if device.config.address < memory_bytes:
                fields = (("partition", partition), ("drc", f"{device.config.drc:#x}"))
                self._out.append(Note("scm_device_in_memory", fields, "warning"))

    def died(self, partition: str) -> None:
        """A partition has ended: its tokens are void."""
        self._partition(partition).started = False
        self._tokens.drop_partition(partition)

    def take(self) -> list[ExtensionOutput | Note]:
        """The consequences so far, in order."""
        out = list(self._out)
        self._out.clear()
        return out

    # -- looking -----------------------------------------------------------------------------------------------------

    def device(self, partition: str, drc: int) -> ScmDevice:
        """A device's state.

        :raises LocalError: there is none.
        """
        state = self._partitions.get(partition)
        device = None if state is None else state.drcs.find(drc, DrcType.PMEM)
        if device is None:
            raise LocalError(f"partition {partition} has no SCM device {drc:#x}")
        return device

    def drcs(self, partition: str) -> DrcTable[ScmDevice]:
        """The connectors of a partition."""
        return self._partition(partition).drcs

    def locate(self, partition: str, address: int, length: int) -> BlockPlace | None:
        """Which bytes of which device a partition means by an address range; ``None`` unless one range holds it all."""
        state = self._partitions.get(partition)
        for device in () if state is None else state.devices():
            for bound in device.ranges():
                if bound.address <= address and length >= 0 and address + length <= bound.end:
                    return BlockPlace(device.config.drc, bound.first * bound.block_size + address - bound.address)
        return None

    def tree(self, partition: str) -> Node:
        """Device tree of a partition's connectors and SCM devices: the root node."""
        state = self._partition(partition)
        children = [device_node(device.config) for device in state.devices()]
        parent = Node(
            "ibm,persistent-memory",
            (text("device_type", "ibm,persistent-memory"), u32("#address-cells", 1), u32("#size-cells", 0)),
            tuple(children),
        )
        cells = (u32("#address-cells", 2), u32("#size-cells", 2))
        return Node("", (*cells, *state.drcs.properties()), (parent,))

    # -- devices -----------------------------------------------------------------------------------------------------

    def _partition(self, name: str) -> ScmPartition:
        state = self._partitions.get(name)
        if state is None:
            state = self._partitions[name] = ScmPartition(name)
        return state

    def _attach(self, config: ScmDeviceConfig, store: MetadataStore) -> ScmDevice:
        state = self._partition(config.partition)
        for other in state.devices():
            if other.config.address < config.end and config.address < other.config.end:
                raise LocalError(f"SCM devices {config.drc:#x} and {other.config.drc:#x}: their addresses overlap")
        device = ScmDevice(config, store, self._now, access=config.statistics)
        if config.drc not in {drc.index for drc in state.drcs}:
            state.drcs.add(config.drc, DrcType.PMEM)
        elif state.drcs.known(config.drc).kind is not DrcType.PMEM:
            raise LocalError(f"DRC {config.drc:#x} of {config.partition}: expected a PMEM connector")
        state.drcs.attach(config.drc, device)
        return device

    def _detach(self, partition: str, drc: int) -> None:
        device = self.device(partition, drc)
        if self._partition(partition).started:
            for r in device.ranges():
                self._out.append(UnmapBlocks(partition, drc, r.first, r.blocks, r.address))
        self._partition(partition).drcs.detach(drc)
        self._tokens.drop_target(partition, drc)

    def _map(self, device: ScmDevice) -> None:
        config = device.config
        for r in device.ranges():
            self._out.append(MapBlocks(config.partition, config.drc, r.first, r.blocks, r.address))

    # -- calls -------------------------------------------------------------------------------------------------------

    def _read_metadata(self, device: ScmDevice, call: Call) -> Answer:
        args = scm.ReadMetadata(*call.args[:3])
        if args.length not in scm.METADATA_LENGTHS:
            return _P3
        if args.offset + args.length > device.config.metadata_size:
            return _P2
        try:
            data = device.store.read(args.offset, args.length)
        except OSError:
            data = b""
        if len(data) != args.length:
            device.read_failed()
            self.counters["metadata_read_failed"] += 1
            return _HARDWARE
        device.count(Statistic.HOST_L_CNT)
        is_signed = device.profile.sign_extends_words and args.length == 4
        return Answer(HcallRc.H_SUCCESS, (int.from_bytes(data, "big", signed=is_signed) % _U64,))

    def _write_metadata(self, device: ScmDevice, call: Call) -> Answer:
        args = scm.WriteMetadata(*call.args[:4])
        if args.length not in scm.METADATA_LENGTHS:
            return _P4
        if args.offset + args.length > device.config.metadata_size or device.config.is_readonly:
            return _P2
        if args.data >> 8 * args.length:
            return _P2
        try:
            device.store.write(args.offset, args.data.to_bytes(args.length, "big"))
        except OSError as error:
            device.write_failed(error.errno)
            self.counters["metadata_write_failed"] += 1
            return _HARDWARE
        device.count(Statistic.HOST_S_CNT)
        return _OK

    def _unbind_all(self, partition: ScmPartition, _caller: Caller, call: Call) -> Answer:
        args = scm.UnbindAll(*call.args[:3])
        device = partition.drcs.find(args.drc, DrcType.PMEM) if args.scope == scm.UnbindScope.DRC else None
        fault = None if device is None else device.take_fault(call.opcode)
        if fault is not None:
            return Answer(fault.rc, fault.outs)
        place = Place(partition.name, call.opcode, low32(args.drc) if args.scope == scm.UnbindScope.DRC else None)
        if args.token:
            return self._binds.go_on_unbinding(partition, place, call, args.token, (args.scope,), _P4)
        match args.scope:
            case scm.UnbindScope.ALL:
                return self._binds.unbind_all(partition, place, call, partition.devices())
            case scm.UnbindScope.DRC:
                return _P2 if device is None else self._binds.unbind_all(partition, place, call, [device])
            case _:
                return _BAD

    def _statistics(self, device: ScmDevice, caller: Caller, call: Call) -> Answer | None:
        def find() -> ScmDevice | None:
            return self._partition(caller.name).drcs.find(call.args[0], DrcType.PMEM)

        return statistics_call(device, caller, call, self._now, find)
