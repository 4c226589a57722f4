"""Binding and unbinding blocks, and asking where they are: five of the ten SCM hcalls.

A device whose profile keeps no bindings is checked and reported on, nothing more.  Otherwise:

* **bind**: blocks are bound from the first on, ``bind_step`` of them a call; r5 and r6 tell the first address and the
  number so far in every answer.  From the start the operation reserves all its blocks and addresses: whoever else wants
  them gets H_OVERLAP.
* **unbind**: after ``unbind_rounds`` busy answers everything is unbound at once, so that until the last call the old
  state is seen whole.  Its start ends the unfinished operations that it touches.

Doubts decided.  An address that is not bound, or only in part, is H_P3 for UNBIND_MEM, as an address outside of the
device is.  UNBIND_ALL of nothing succeeds at once.  A bind that would pass the limit of open operations has no effect.

Spec: hcall_scm 3.3 - 3.8, 6.1 (6 - 12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pvnet.papr.continuation import Continuations, Place
from pvnet.papr.dispatch import Answer, Call
from pvnet.papr.drc import DrcTable, DrcType
from pvnet.papr.extension import Caller, ExtensionOutput
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.scm import calls as scm
from pvnet.scm.bindings import Range
from pvnet.scm.device import ScmDevice
from pvnet.scm.flush_calls import FlushWork
from pvnet.scm.hypervisor_io import MapBlocks, UnmapBlocks
from pvnet.scm.profiles import ScmProfile

_OK: Final = Answer(HcallRc.H_SUCCESS)
_OVERLAP: Final = Answer(HcallRc.H_OVERLAP)
_NOT_FOUND: Final = Answer(HcallRc.H_NOT_FOUND)
_P2: Final = Answer(HcallRc.H_P2)
_P3: Final = Answer(HcallRc.H_P3)
_P4: Final = Answer(HcallRc.H_P4)
_P5: Final = Answer(HcallRc.H_P5)
_U64: Final = 1 << 64


@dataclass(slots=True)
class BindWork:
    """A bind under way: the first ``done`` blocks of ``range`` are bound."""

    drc: int
    range: Range
    done: int = 0


@dataclass(slots=True)
class UnbindWork:
    """An unbind under way: ``ranges`` by DRC index; ``rounds`` busy answers are still to come."""

    ranges: tuple[tuple[int, Range], ...]
    rounds: int

    @property
    def blocks(self) -> int:
        """Blocks it is about."""
        return sum(r.blocks for _, r in self.ranges)


Work: TypeAlias = BindWork | UnbindWork | FlushWork
"""Everything that has a continuation token."""


@dataclass(slots=True)
class ScmPartition:
    """A partition as SCM sees it."""

    name: str
    drcs: DrcTable[ScmDevice] = field(default_factory=DrcTable)
    started: bool = False

    def devices(self) -> list[ScmDevice]:
        """Its devices, in the order of their connectors."""
        return [drc.device for drc in self.drcs if drc.device is not None]


class BindCalls:
    """The five calls; operations live in ``tokens``, mappings go to ``emit``."""

    def __init__(
        self, tokens: Continuations[Work], profile: ScmProfile, emit: Callable[[ExtensionOutput], None]
    ) -> None:
        self._tokens = tokens
        self._profile = profile
        self._emit = emit

    # -- bind ----------------------------------------------------------------------------------------------------------

    def bind(self, partition: ScmPartition, device: ScmDevice, caller: Caller, call: Call) -> Answer:
        """H_SCM_BIND_MEM."""
        args, config, profile = scm.BindMem(*call.args[:5]), device.config, device.profile
        place = Place(partition.name, call.opcode, config.drc)
        if args.token:
            work = self._tokens.find(place, args.token, args[1:4])
            if not isinstance(work, BindWork):
                return _P5
            return self._bind_step(device, place, call, work, args.token)
        has_target = args.target != scm.ANY_ADDRESS
        if has_target and not profile.takes_target:
            return _OVERLAP
        if has_target and (args.target % config.block_size or args.target + args.blocks * config.block_size > _U64):
            return _P4
        if args.start > config.blocks:
            return _P2
        if args.blocks > config.blocks - args.start:
            return _P3
        address = args.target if has_target else config.address + args.start * config.block_size
        new = Range(args.start, args.blocks, address, config.block_size)
        if not profile.keeps_bindings or not args.blocks:
            return Answer(HcallRc.H_SUCCESS, (args.drc, address, args.blocks))
        if address < caller.memory_bytes or self._is_taken(partition, device, new):
            return _OVERLAP
        return self._bind_step(device, place, call, BindWork(config.drc, new), 0)

    def _is_taken(self, partition: ScmPartition, device: ScmDevice, new: Range) -> bool:
        """Whether a block or an address of the range is bound, or reserved by an unfinished bind."""
        taken = [(other.config.drc, r) for other in partition.devices() for r in other.ranges()]
        taken += [
            (work.drc, work.range)
            for _, _, work in self._tokens.of_partition(partition.name)
            if isinstance(work, BindWork)
        ]
        return any(
            r.overlaps_addresses(new.address, new.end)
            or (drc == device.config.drc and r.overlaps_blocks(new.first, new.blocks))
            for drc, r in taken
        )

    def _bind_step(self, device: ScmDevice, place: Place, call: Call, work: BindWork, token: int) -> Answer:
        """Bind the next blocks; ``token`` is 0 in the first call."""
        profile, whole = device.profile, work.range
        n = min(profile.bind_step or whole.blocks, whole.blocks - work.done)
        is_last = work.done + n == whole.blocks
        if is_last:
            busy_token = 0
        elif token:
            busy_token = self._tokens.renew(place, token)
        else:
            args = tuple(call.args[1:4])
            started = self._tokens.start(place, args, work, profile.first_tokens.get(call.opcode, 1))
            if started is None:
                return Answer(profile.bind_busy, (0, 0, 0))
            busy_token = started
        part = whole.part(work.done, n)
        device.bindings.bind(part)
        config = device.config
        self._emit(MapBlocks(config.partition, config.drc, part.first, part.blocks, part.address))
        work.done += n
        if not is_last:
            return Answer(profile.bind_busy, (busy_token, whole.address, work.done))
        if token:
            self._tokens.finish(place, token)
        return Answer(HcallRc.H_SUCCESS, (call.args[0], whole.address, whole.blocks))

    # -- unbind --------------------------------------------------------------------------------------------------------

    def unbind(self, partition: ScmPartition, device: ScmDevice, call: Call) -> Answer:
        """H_SCM_UNBIND_MEM."""
        args, config = scm.UnbindMem(*call.args[:4]), device.config
        place = Place(partition.name, call.opcode, config.drc)
        if args.token:
            return self.go_on_unbinding(partition, place, call, args.token, args[1:3], _P4)
        if args.address % config.block_size:
            return _P2
        end = args.address + args.blocks * config.block_size
        if not args.blocks or end > _U64:
            return _P3
        if not device.profile.keeps_bindings:
            if args.address < config.address or end > config.end:
                return _P3
            return Answer(HcallRc.H_SUCCESS, (args.drc, args.blocks))
        pieces = device.bindings.pieces(args.address, end)
        if sum(piece.blocks for piece in pieces) != args.blocks:
            return _P3
        work = UnbindWork(tuple((config.drc, piece) for piece in pieces), device.profile.unbind_rounds)
        return self._start_unbind(partition, place, call, work, args[1:3], device.profile)

    def unbind_all(self, partition: ScmPartition, place: Place, call: Call, devices: Sequence[ScmDevice]) -> Answer:
        """H_SCM_UNBIND_ALL of these devices, first call."""
        stateful = [device for device in devices if device.profile.keeps_bindings]
        ranges = tuple((device.config.drc, r) for device in stateful for r in device.bindings)
        rounds = max((device.profile.unbind_rounds for device in stateful if len(device.bindings)), default=0)
        profile = devices[0].profile if place.target is not None else self._profile
        # A bind that is between two steps ends even where nothing is bound yet.
        self._cancel(partition.name, {device.config.drc for device in stateful}, ())
        return self._start_unbind(partition, place, call, UnbindWork(ranges, rounds), call.args[:1], profile)

    def go_on_unbinding(
        self, partition: ScmPartition, place: Place, call: Call, token: int, args: tuple[int, ...], refusal: Answer
    ) -> Answer:
        """A continuation of either unbind; ``refusal`` when the token is not good here."""
        work = self._tokens.find(place, token, args)
        if not isinstance(work, UnbindWork):
            return refusal
        profile = self._profile_of(partition, place)
        if work.rounds:
            work.rounds -= 1
            return Answer(profile.unbind_busy, (self._tokens.renew(place, token),))
        self._tokens.finish(place, token)
        return self._finish_unbind(partition, call, work, profile)

    def _start_unbind(
        self,
        partition: ScmPartition,
        place: Place,
        call: Call,
        work: UnbindWork,
        args: tuple[int, ...],
        profile: ScmProfile,
    ) -> Answer:
        self._cancel(partition.name, (), work.ranges)
        if not work.rounds:
            return self._finish_unbind(partition, call, work, profile)
        work.rounds -= 1
        token = self._tokens.start(place, args, work, profile.first_tokens.get(call.opcode, 1))
        return Answer(profile.unbind_busy, (token or 0,))

    def _finish_unbind(self, partition: ScmPartition, call: Call, work: UnbindWork, profile: ScmProfile) -> Answer:
        for drc, r in work.ranges:
            device = partition.drcs.find(drc, DrcType.PMEM)
            for piece in () if device is None else device.bindings.unbind(r.address, r.end):
                self._emit(UnmapBlocks(partition.name, drc, piece.first, piece.blocks, piece.address))
        if call.opcode == HcallOpcode.H_SCM_UNBIND_MEM:
            return Answer(HcallRc.H_SUCCESS, (call.args[0], work.blocks))
        if not profile.unbind_all_counts:
            return _OK
        return Answer(HcallRc.H_SUCCESS, (call.args[0], work.blocks + self._stateless_blocks(partition, call)))

    def _stateless_blocks(self, partition: ScmPartition, call: Call) -> int:
        """What an UNBIND_ALL counts of devices without bindings: all their blocks, every time."""
        args = scm.UnbindAll(*call.args[:3])
        named = partition.drcs.find(args.drc, DrcType.PMEM)
        return sum(
            device.config.blocks
            for device in partition.devices()
            if not device.profile.keeps_bindings and (args.scope == scm.UnbindScope.ALL or device is named)
        )

    def _cancel(self, partition: str, drcs: Iterable[int], ranges: Sequence[tuple[int, Range]]) -> None:
        """End unfinished binds of these devices, and all that shares a block with one of the ranges."""
        drcs = set(drcs)
        for place, token, work in self._tokens.of_partition(partition):
            match work:
                case BindWork(drc, r):
                    touched = [(drc, r)]
                case UnbindWork(theirs):
                    touched = list(theirs)
                case FlushWork():
                    continue
            if (isinstance(work, BindWork) and work.drc in drcs) or any(
                drc == other and r.overlaps_blocks(mine.first, mine.blocks)
                for drc, r in touched
                for other, mine in ranges
            ):
                self._tokens.finish(place, token)

    def _profile_of(self, partition: ScmPartition, place: Place) -> ScmProfile:
        device = None if place.target is None else partition.drcs.find(place.target, DrcType.PMEM)
        return self._profile if device is None else device.profile

    # -- queries -------------------------------------------------------------------------------------------------------

    def query_block(self, device: ScmDevice, call: Call) -> Answer:
        """H_SCM_QUERY_BLOCK_MEM_BINDING."""
        block = call.args[1]
        if block >= device.config.blocks:
            return _P2
        address = device.bindings.address_of(block)
        return _NOT_FOUND if address is None else Answer(HcallRc.H_SUCCESS, (address,))

    def query_logical(self, partition: ScmPartition, call: Call) -> Answer:
        """H_SCM_QUERY_LOGICAL_MEM_BINDING."""
        address = call.args[0]
        for device in partition.devices():
            found = device.bindings.find(address)
            if found is not None:
                block = found.first + (address - found.address) // found.block_size
                return Answer(HcallRc.H_SUCCESS, (device.config.drc, block))
        return _NOT_FOUND
