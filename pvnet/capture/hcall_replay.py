"""Replays recorded hypervisor calls (records of an hcall trace) through a partition of a living lab, and compares.

The rules are those of :mod:`pvnet.capture.hcall_check`: the return code, and every register that the recording knows; a
register that the hypervisor does not write keeps its argument, or the preset.  What a running lab cannot be asked (the
slots of a queue in the partition's memory, its interrupts) is counted as not compared.

How long a medium took for H_SCM_FLUSH is chance: recorded busy answers and living ones need not be as many.  A call
that was recorded as done is repeated while it is busy, and calls that only asked again are left out when the living
hypervisor was done before.

Tokens that the hypervisor chooses are learned (:mod:`pvnet.capture.expect`), and translated in what is asked next.

Spec: hcall_scm 5.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pvnet.capture.expect import Difference, Expectation
from pvnet.capture.hcall_trace import SCHEMA, SCM_OPCODES, TraceCall, TraceMeta, parse_hcall_trace
from pvnet.capture.jsonl import JsonObject
from pvnet.capture.lore import Domain
from pvnet.capture.model import LINKTYPE_HCALL, Record
from pvnet.capture.slots import Value
from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode, rc_name
from pvnet.papr.retry import BusyRetry, wants_retry
from pvnet.papr.signatures import SIGNATURES, Unit, describe

_FIRST_REGISTER: Final = 4
_ASK_AGAIN: Final = 10_000
"""Most repetitions of one call that stays busy."""
_LONGEST_WAIT_S: Final = 1000.0
_U64: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class LivingCall:
    """A call to be made, ``after_s`` seconds from now: as long as a busy answer asks to wait."""

    opcode: int
    args: tuple[int, ...]
    after_s: float = 0.0


@dataclass(slots=True)
class HcallReplay:
    """``next(record)`` returns the call of a record, ``answered`` takes what came and may return the call again.

    ``made`` counts comparisons, ``left_out`` what was not compared, by reason.
    """

    expectation: Expectation = field(default_factory=Expectation)
    made: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    _meta: TraceMeta | None = None
    _call: TraceCall | None = None
    _asked: LivingCall | None = None
    _number: int = 0
    _again: int = 0
    _finished: set[tuple[int, int]] = field(default_factory=set)
    """Opcode and token of calls that were recorded as busy and were done at once."""

    def next(self, record: Record) -> LivingCall | None:
        """Return the call to be made; None when this record has none."""
        if record.interface.link_type != LINKTYPE_HCALL:
            self.left_out["no hypervisor call"] += 1
            return None
        call = self._read(record)
        if call is None:
            return None
        token = _token(call)
        if token and (call.opcode, token) in self._finished:
            self.left_out["asked again, was done already"] += 1
            if not wants_retry(call.rc):
                self._finished.discard((call.opcode, token))
            else:
                self._finished.add((call.opcode, call.after.get(_FIRST_REGISTER, token)))
            return None
        self._call, self._number, self._again = call, record.number, 0
        args = tuple(self._living(call, number, value) for number, value in enumerate(call.args))
        self._asked = LivingCall(call.opcode, args)
        return self._asked

    def answered(self, rc: int, outs: tuple[int, ...]) -> LivingCall | None:
        """Compare; return a call to be made again because it is still busy."""
        call, asked = self._call, self._asked
        assert call is not None
        assert asked is not None
        is_flush = call.opcode == HcallOpcode.H_SCM_FLUSH
        if wants_retry(rc) and not wants_retry(call.rc) and self._again < _ASK_AGAIN and is_flush:
            self._again += 1
            at = _token_at(call.opcode)
            args = list(asked.args)
            if at is not None and at < len(args) and outs:
                args[at] = outs[0]
            self._asked = LivingCall(call.opcode, tuple(args), _wait_s(rc))
            return self._asked
        if is_flush and wants_retry(call.rc) and rc == 0:
            self._finished.add((call.opcode, call.after.get(_FIRST_REGISTER, 0)))
            self.left_out["was busy, is done at once"] += 1
            return None
        self.made += 1
        what = describe(call.opcode, call.args)
        if rc != call.rc:
            self._differs(what, "rc", rc_name(call.rc), rc_name(rc))
            return None
        pending: dict[tuple[Domain, Value], Value] = {}
        wrong = [
            (register, value, ours)
            for register, value in sorted(call.after.items())
            if (ours := self._register(register - _FIRST_REGISTER, asked.args, outs)) is not None
            and not self._same(call, register - _FIRST_REGISTER, value, ours, pending)
        ]
        self.expectation.same.learn(pending)
        for register, value, ours in wrong:
            self._differs(what, f"r{register} after the call", f"{value:#x}", f"{ours:#x}")
        self.expectation.matched += not wrong
        return None

    def _differs(self, what: str, name: str, recorded: str, living: str) -> None:
        self.expectation.note("hcall", Difference(self._number, what, name, recorded, living))

    def _read(self, record: Record) -> TraceCall | None:
        where = f"record {record.number}"
        try:
            values = json.loads(record.data)
        except (ValueError, RecursionError):
            raise ConfigError(f"{where}: not JSON: expected a line of {SCHEMA}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: expected a JSON object")
        if "meta" in values:
            if isinstance(values["meta"], dict) and values["meta"].get("schema") == SCHEMA:
                self._meta = parse_hcall_trace(where, [JsonObject(where, values)]).meta
            return None
        if "opcode" not in values or values.get("rc") is None:
            self.left_out["no call with an answer"] += 1
            return None
        if not isinstance(values.get("args"), list):
            self.left_out["arguments not known"] += 1
            return None
        meta = JsonObject(where, {"meta": {"schema": SCHEMA, "profile": ""}})
        found = parse_hcall_trace(where, [meta, JsonObject(where, values)]).records[0]
        assert isinstance(found, TraceCall)
        return found

    def _register(self, index: int, args: tuple[int, ...], outs: tuple[int, ...]) -> int | None:
        for known in (outs, args):
            if index < len(known):
                return known[index]
        return self._meta.preset if self._meta is not None else None

    def _domain(self, call: TraceCall, number: int, *, is_output: bool) -> Domain | None:
        signature = SIGNATURES.get(call.opcode)
        if signature is None:
            return None
        outputs = signature.outputs if is_output and (call.rc >= 0) else ()
        table = outputs if number < len(outputs) else signature.inputs
        if number >= len(table):
            return None
        match table[number].unit:
            case Unit.TOKEN:
                return ("hcall token", "", int(call.opcode))
            case Unit.ADDRESS if call.opcode in SCM_OPCODES:
                return ("logical address", "")  # the hypervisor chooses where a device is mapped
        return None

    def _living(self, call: TraceCall, number: int, value: int) -> int:
        domain = self._domain(call, number, is_output=False)
        if domain is None or value in (0, _U64):
            return value
        living = self.expectation.same.living(domain, value)
        assert isinstance(living, int)
        return living

    def _same(
        self, call: TraceCall, number: int, recorded: int, ours: int, pending: dict[tuple[Domain, Value], Value]
    ) -> bool:
        domain = self._domain(call, number, is_output=True)
        is_over = domain is not None and domain[0] == "hcall token" and not wants_retry(call.rc)
        if domain is None or is_over or 0 in (recorded, ours):
            return recorded == ours or (
                number < len(call.args) and recorded == call.args[number] and self._kept(number, ours)
            )
        return self.expectation.same.check(domain, recorded, ours, pending)

    def _kept(self, number: int, ours: int) -> bool:
        """Whether a register still has its argument, as recorded, though that was translated."""
        return self._asked is not None and number < len(self._asked.args) and ours == self._asked.args[number]


def _wait_s(rc: int) -> float:
    return BusyRetry(0.0, _LONGEST_WAIT_S).next(rc, 0.0) or 0.0


def _token_at(opcode: int) -> int | None:
    signature = SIGNATURES.get(HcallOpcode(opcode))
    inputs = signature.inputs if signature is not None else ()
    return next((number for number, argument in enumerate(inputs) if argument.unit is Unit.TOKEN), None)


def _token(call: TraceCall) -> int:
    at = _token_at(call.opcode)
    return call.args[at] if at is not None and at < len(call.args) else 0
