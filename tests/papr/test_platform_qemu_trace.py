"""Every record of a trace of QEMU's CRQ, signal and TCE hcalls, replayed against the platform with profile ``qemu``.

A trace holds the calls, not everything the guest did: between two calls it also filled the queue with INITs, cleared
slots, or stored a pattern into one to see that it stays.  :class:`TraceReplay` deduces these acts from what was
observed next, in the narrowest way (see ``_prepare``), lists them in ``hidden``, and otherwise only compares.
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from pathlib import Path
from typing import Any

from pvnet.memory.segment import Segment
from pvnet.papr.crq import encode_init, encode_init_complete, to_words
from pvnet.papr.hcall import HcallOpcode
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    PROFILES,
    AdapterConfig,
    HcallRequest,
    HcallResult,
    HypervisorPartner,
    PartitionConfig,
    PartitionStarted,
    PartnerElement,
    PlatformConfig,
    PlatformOutput,
    RaiseIrq,
)

TRACE = Path(__file__).parents[1] / "vectors" / "qemu-7.2-crq.jsonl"
GUEST = "guest"
_ANSWER = encode_init_complete()
_SLOT = 16


class TraceReplay:
    """Feeds one ``pvnet-hcall-trace/1`` with a mapped queue to a :class:`Platform` and compares.

    ``run`` returns one line per difference; ``compared`` counts what was compared, ``hidden`` what had to be deduced.
    """

    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta
        memory_bytes = int(meta["memory"], 16)
        self.memory = Segment(mmap.mmap(-1, memory_bytes))
        self.queue = int(meta["queue"]["real"], 16)
        self.preset = None if meta["preset"] is None else int(meta["preset"], 16)
        adapters = tuple(_adapter(device) for device in meta["vdevices"])
        self.platform = Platform(
            PlatformConfig((PartitionConfig(GUEST, memory_bytes, adapters),), PROFILES[meta["profile"]])
        )
        self.platform.feed(PartitionStarted(GUEST, self.memory), 0.0)
        self.unit = next(a.unit for a in adapters if a.crq)
        self.platform.partner_register(GUEST, self.unit)
        self.irq = False
        self.position = 0
        self.slots = 0
        self.compared: Counter[str] = Counter()
        self.hidden: Counter[str] = Counter()

    def run(self, records: list[dict[str, Any]]) -> list[str]:
        """Replay all records after the meta line."""
        differences: list[str] = []
        for index, record in enumerate(records):
            if "opcode" in record:
                seen = []
                for later in records[index + 1 :]:
                    if "observe" not in later:
                        break
                    seen.append(later)
                self._prepare(record, seen)
                differences += self._call(record)
            elif record.get("observe") == "queue":
                differences += self._look(record)
            elif record.get("observe") == "irq":
                self.compared["irq"] += 1
                if self.irq != record["raised"]:
                    differences.append(f"record {record['n']}: irq {self.irq}, recorded {record['raised']}")
                self.irq = False
        return differences

    # -- comparing -------------------------------------------------------------------------------------------------

    def _call(self, record: dict[str, Any]) -> list[str]:
        args = tuple(int(arg, 16) for arg in record["args"])
        result = self._hcall(int(record["opcode"], 16), args)
        self.compared["hcall"] += 1
        differences = []
        if result.rc != record["rc"]:
            differences.append(f"record {record['n']} {record.get('name')}: rc {result.rc}, recorded {record['rc']}")
        for name, value in (record.get("after") or {}).items():
            index = int(name[1:]) - 4
            ours = self.preset
            if index < len(result.outs):
                ours = result.outs[index]
            elif index < len(args):
                ours = args[index]
            if ours is not None and ours != int(value, 16):
                differences.append(f"record {record['n']}: {name} is {ours:#x}, recorded {value}")
        return differences

    def _look(self, record: dict[str, Any]) -> list[str]:
        self.compared["queue"] += 1
        differences = []
        for slot, value in _slots(record).items():
            ours = self._slot(slot)
            if ours != value and not ours[0] and slot >= self.position:
                if value == _ANSWER:
                    self._fill(slot + 1)
                elif value[0] == 0x80 and slot == self.position:
                    self.hidden["partner posted"] += 1
                    self._take(self.platform.partner_post(GUEST, self.unit, value))
                    self._advance(0)
            if self._slot(slot) != value:
                differences.append(
                    f"record {record['n']}: slot {slot} is {self._slot(slot).hex()}, recorded {value.hex()}"
                )
        return differences

    # -- what the trace does not say ---------------------------------------------------------------------------------

    def _prepare(self, record: dict[str, Any], seen: list[dict[str, Any]]) -> None:
        """Do what the guest must have done before this call, given what was seen between it and the next one."""
        if int(record["opcode"], 16) != HcallOpcode.H_SEND_CRQ or not self.slots:
            return
        slots = {slot: value for look in reversed(seen) for slot, value in _slots(look).items()}
        raised = any(look.get("raised") for look in seen)
        if self.position == 0 and any(self._slot(slot)[0] and not value[0] for slot, value in slots.items()):
            self.hidden["guest cleared the queue"] += 1
            self.memory.write(self.queue, bytes(self.slots * _SLOT))
        for slot, value in slots.items():
            if value[0] not in (0, 0x80, 0xC0) and self._slot(slot) != value:
                self.hidden["guest stored a pattern"] += 1
                self.memory.write(self.queue + slot * _SLOT, value)
        here = slots.get(self.position)
        if here == _ANSWER and self._slot(self.position)[0] and (raised or self._slot(self.position) != here):
            self.hidden["guest consumed a slot"] += 1
            self._clear(self.position)
        new = [s for s, v in slots.items() if v == _ANSWER and s > self.position and self._slot(s) != v]
        if new and int(record["args"][1], 16) >> 48 == 0xC001:
            # Either this call fills the last one, or the slot after it was seen empty: then this call was lost.
            self._fill(max(new) + (max(new) + 1 in slots and not slots[max(new) + 1][0]))

    def _fill(self, upto: int) -> None:
        """The guest sends INITs (and consumes what is in the way) until ``upto`` is the next slot."""
        while self.position < upto:
            self.hidden["guest sent INIT"] += 1
            self._clear(self.position)
            before = self.position
            self._hcall(HcallOpcode.H_SEND_CRQ, (self.unit, *to_words(encode_init())))
            if self.position == before:
                break  # the comparison that follows says so
        self.irq = False

    # -- doing -------------------------------------------------------------------------------------------------------

    def _hcall(self, opcode: int, args: tuple[int, ...]) -> HcallResult:
        outputs = self.platform.feed(HcallRequest(GUEST, 1, opcode, args), 0.0)
        result = outputs[0]
        assert isinstance(result, HcallResult)
        if opcode == HcallOpcode.H_REG_CRQ and result.rc == 0:
            self.slots, self.position = args[2] // _SLOT, 0
        if opcode == HcallOpcode.H_FREE_CRQ and result.rc == 0 and args[0] & 0xFFFF_FFFF == self.unit:
            self.slots = 0
        self._take(outputs[1:])
        return result

    def _take(self, outputs: list[PlatformOutput]) -> None:
        for output in outputs:
            match output:
                case PartnerElement(partition, unit, element):
                    if element[:2] == encode_init()[:2]:
                        before = self._slot(self.position)[0] if self.slots else 1
                        self._take(self.platform.partner_post(partition, unit, _ANSWER))
                        self._advance(before)
                case RaiseIrq():
                    self.irq = True
                case _:
                    pass

    def _advance(self, before: int) -> None:
        """Follow the producer: the slot was free and is not any more."""
        if not before and self._slot(self.position)[0]:
            self.position = (self.position + 1) % self.slots

    def _slot(self, slot: int) -> bytes:
        return self.memory.read(self.queue + slot * _SLOT, _SLOT)

    def _clear(self, slot: int) -> None:
        self.memory.write(self.queue + slot * _SLOT, b"\0")


def _slots(record: dict[str, Any]) -> dict[int, bytes]:
    return {int(slot): bytes.fromhex(value) for slot, value in record.get("slots", {}).items()}


def _adapter(device: dict[str, Any]) -> AdapterConfig:
    return AdapterConfig(
        unit=int(device["unit"], 16),
        crq=device["crq"],
        liobn=int(device["liobn"], 16) if "liobn" in device else None,
        window_bytes=int(device.get("window", "0x0"), 16),
        signal_mask=int(device["signal_mask"], 16),
        partner=HypervisorPartner() if device["crq"] else None,
    )


def load() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = [json.loads(line) for line in TRACE.read_text().splitlines()]
    return lines[0]["meta"], lines[1:]


def test_every_record_of_the_qemu_trace() -> None:
    meta, records = load()
    replay = TraceReplay(meta)
    assert replay.run(records) == []
    assert replay.compared == {"hcall": 138, "queue": 23, "irq": 14}
    # What was not recorded, so that a deduction gone wild is seen.
    assert replay.hidden == {
        "partner posted": 1,
        "guest sent INIT": 250 + 256,
        "guest stored a pattern": 2,
        "guest consumed a slot": 2,
        "guest cleared the queue": 1,
    }


def test_a_difference_is_reported() -> None:
    meta, records = load()
    for record in records:
        if "opcode" in record:
            record["rc"] += 1
            record["after"]["r11"] = "0x1"
        elif record["observe"] == "irq":
            record["raised"] = not record["raised"]
    replay = TraceReplay(meta)
    differences = replay.run(records)
    assert len([d for d in differences if ": rc " in d]) == 138
    assert len([d for d in differences if " r11 " in d]) == 138
    assert len([d for d in differences if " irq " in d]) >= 7
