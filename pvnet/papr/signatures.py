"""What the hcalls that pvnet implements take and give, as data: for the command line, for logs and for the documents.

A :class:`Signature` names the arguments from r4 upward with unit and meaning, the outputs from r4 upward, and the
documented return codes.  :func:`parse_arguments` turns what a user typed into registers, :func:`describe` turns
registers into one line.  The dispatcher does not use this table: what a hypervisor accepts is decided by its handlers.

Doubts decided.  The "args" that carry several things in one register (H_VIO_SIGNAL mode, TCEs) stay one number: the
bits are in the text.  LoPAR does not document H_REQUEST_VMC; its codes are those the Linux driver handles.  The SCM
hcalls list what pvnet's profiles answer, not what the kernel's document lists without a case.  Arguments that a first
call leaves alone (a continuation token, a target that the hypervisor chooses) have a default and may be left out.

Spec: LoPAR ch. 17 (virtual I/O) and ch. 14 (LPAR option, TCE hcalls); Linux ``ibmvmc.c`` for H_REQUEST_VMC; Linux
``papr_hcalls.rst`` and ``papr_scm.c`` for H_SCM_*.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode, HcallRc

_U64_MAX: Final = (1 << 64) - 1
_SIZES: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_NUMBER: Final = re.compile(r"(0x[0-9a-f_]+|0o[0-7_]+|0b[01_]+|[0-9][0-9_]*)(?:([kmg])(?:ib|b)?)?", re.IGNORECASE)


class Unit(StrEnum):
    """How an argument is counted and printed."""

    UNIT_ADDRESS = "unit address"
    LIOBN = "LIOBN"
    IOBA = "I/O address"
    BYTES = "bytes"
    PAGES = "4 KiB pages"
    WORD = "8 bytes, big-endian"
    TCE = "TCE"
    MODE = "mode"
    DRC_INDEX = "DRC index"
    ADDRESS = "logical real address"
    BLOCKS = "blocks"
    TOKEN = "continuation token"  # noqa: S105 - no password
    VALUE = "number"
    BITMAP = "bitmap, bit 0 is the most significant"


_HEX: Final = frozenset(set(Unit) - {Unit.PAGES, Unit.MODE, Unit.BLOCKS})


@dataclass(frozen=True, slots=True)
class Argument:
    """One register: its name, what its number counts, what it is for; ``default`` when it may be left out."""

    name: str
    unit: Unit
    meaning: str
    default: int | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """One hcall: ``inputs`` from r4 upward, ``outputs`` from r4 upward, return codes as documented."""

    opcode: HcallOpcode
    summary: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    rcs: tuple[HcallRc, ...]

    @property
    def name(self) -> str:
        """Name as in ``hvcall.h``."""
        return self.opcode.name

    @property
    def usage(self) -> str:
        """One line for a user: name and arguments, those that may be left out in brackets."""
        names = (a.name.upper() if a.default is None else f"[{a.name.upper()}]" for a in self.inputs)
        return " ".join((self.name, *names))


_UNIT = Argument("unit", Unit.UNIT_ADDRESS, "the adapter")
_LIOBN = Argument("liobn", Unit.LIOBN, "the window")
_IOBA = Argument("ioba", Unit.IOBA, "first page's address in the window")
_DRC = Argument("drc", Unit.DRC_INDEX, "connector of the device, low 32 bits")
_TOKEN = Argument("token", Unit.TOKEN, "0 in the first call, then what r4 said", 0)
_NEXT_TOKEN = Argument("token", Unit.TOKEN, "while busy: repeat the call with it")
_UNBOUND = Argument("unbound", Unit.BLOCKS, "how many were unbound")
_R = HcallRc


def _signature(
    opcode: HcallOpcode,
    summary: str,
    inputs: Sequence[Argument],
    rcs: Sequence[HcallRc],
    outputs: Sequence[Argument] = (),
) -> tuple[HcallOpcode, Signature]:
    return opcode, Signature(opcode, summary, tuple(inputs), tuple(outputs), (_R.H_SUCCESS, *rcs))


SIGNATURES: Final[Mapping[HcallOpcode, Signature]] = MappingProxyType(
    dict(
        (
            _signature(
                HcallOpcode.H_REG_CRQ,
                "register a command/response queue; Closed: registered, but the partner is not there yet",
                (
                    _UNIT,
                    Argument("queue", Unit.IOBA, "where the ring starts, 4 KiB aligned, in the first window"),
                    Argument("length", Unit.BYTES, "its length, a multiple of 4 KiB"),
                ),
                (_R.H_CLOSED, _R.H_PARAMETER, _R.H_NOT_FOUND, _R.H_RESOURCE),
            ),
            _signature(
                HcallOpcode.H_FREE_CRQ,
                "deregister a command/response queue; repeat while busy",
                (_UNIT,),
                (
                    _R.H_BUSY,
                    _R.H_LONG_BUSY_ORDER_1_MSEC,
                    _R.H_LONG_BUSY_ORDER_10_MSEC,
                    _R.H_PARAMETER,
                    _R.H_RESOURCE,
                    _R.H_HARDWARE,
                ),
            ),
            _signature(
                HcallOpcode.H_VIO_SIGNAL,
                "switch the adapter's interrupts; off after every registration and deregistration",
                (_UNIT, Argument("mode", Unit.MODE, "0 off, 1 first interrupt, 2 second")),
                (_R.H_PARAMETER, _R.H_HARDWARE),
            ),
            _signature(
                HcallOpcode.H_SEND_CRQ,
                "put a 16-byte element into the partner's queue",
                (
                    _UNIT,
                    Argument("high", Unit.WORD, "bytes 0-7: header, type, ..."),
                    Argument("low", Unit.WORD, "bytes 8-15"),
                ),
                (_R.H_CLOSED, _R.H_PARAMETER, _R.H_DROPPED, _R.H_HARDWARE),
            ),
            _signature(
                HcallOpcode.H_ENABLE_CRQ,
                "enable a queue that a suspend disabled; repeat while busy or in progress",
                (_UNIT,),
                (_R.H_IN_PROGRESS, _R.H_LONG_BUSY_ORDER_10_MSEC, _R.H_PARAMETER, _R.H_HARDWARE),
            ),
            _signature(
                HcallOpcode.H_COPY_RDMA,
                "copy bytes between two windows; all or nothing",
                (
                    Argument("length", Unit.BYTES, "how many"),
                    Argument("source_liobn", Unit.LIOBN, "window to read"),
                    Argument("source_ioba", Unit.IOBA, "where to read"),
                    Argument("dest_liobn", Unit.LIOBN, "window to write"),
                    Argument("dest_ioba", Unit.IOBA, "where to write"),
                ),
                (_R.H_PARAMETER, _R.H_SOURCE_PARM, _R.H_DEST_PARM, _R.H_PERMISSION, _R.H_HARDWARE),
            ),
            _signature(
                HcallOpcode.H_REQUEST_VMC,
                "ask for a virtual management channel for this partition; repeat while busy",
                (),
                (
                    _R.H_BUSY,
                    _R.H_NOT_AVAILABLE,
                    _R.H_FUNCTION,
                    _R.H_AUTHORITY,
                    _R.H_RESOURCE,
                    _R.H_PARAMETER,
                    _R.H_HARDWARE,
                ),
                (Argument("drc", Unit.DRC_INDEX, "connector of the new adapter, low 32 bits"),),
            ),
            _signature(
                HcallOpcode.H_PUT_TCE,
                "map one 4 KiB page: real page number in bits 0-51, write 0x2, read 0x1, both 0 unmaps",
                (_LIOBN, _IOBA, Argument("tce", Unit.TCE, "page address and access bits")),
                (_R.H_PARAMETER, _R.H_PERMISSION, _R.H_RESOURCE, _R.H_HARDWARE),
            ),
            _signature(
                HcallOpcode.H_GET_TCE,
                "read one translation entry back",
                (_LIOBN, _IOBA),
                (_R.H_PARAMETER, _R.H_HARDWARE),
                (Argument("tce", Unit.TCE, "page address and access bits"),),
            ),
            _signature(
                HcallOpcode.H_PUT_TCE_INDIRECT,
                "map up to 512 pages from a list of big-endian TCEs in a page of the partition's memory",
                (
                    _LIOBN,
                    _IOBA,
                    Argument("list", Unit.BYTES, "logical real address of the list, 4 KiB aligned"),
                    Argument("count", Unit.PAGES, "entries, 0 to 512"),
                ),
                (_R.H_PARAMETER, _R.H_PERMISSION, _R.H_RESOURCE, _R.H_HARDWARE),
            ),
            _signature(
                HcallOpcode.H_STUFF_TCE,
                "give the same translation entry to consecutive pages, usually 0 to unmap",
                (_LIOBN, _IOBA, Argument("tce", Unit.TCE, "one for all"), Argument("count", Unit.PAGES, "how many")),
                (_R.H_PARAMETER, _R.H_PERMISSION, _R.H_RESOURCE, _R.H_HARDWARE),
            ),
            _signature(
                HcallOpcode.H_SCM_READ_METADATA,
                "read 1, 2, 4 or 8 bytes of a device's metadata area, as one big-endian number",
                (
                    _DRC,
                    Argument("offset", Unit.BYTES, "where in the area, any alignment"),
                    Argument("length", Unit.BYTES, "1, 2, 4 or 8"),
                ),
                (_R.H_PARAMETER, _R.H_P2, _R.H_P3, _R.H_HARDWARE),
                (Argument("data", Unit.VALUE, "the bytes, first one most significant"),),
            ),
            _signature(
                HcallOpcode.H_SCM_WRITE_METADATA,
                "write 1, 2, 4 or 8 bytes of a device's metadata area, as one big-endian number",
                (
                    _DRC,
                    Argument("offset", Unit.BYTES, "where in the area, any alignment"),
                    Argument("data", Unit.VALUE, "the bytes, first one most significant; no bits beyond length"),
                    Argument("length", Unit.BYTES, "1, 2, 4 or 8"),
                ),
                (_R.H_PARAMETER, _R.H_P2, _R.H_P4, _R.H_HARDWARE),
            ),
            _signature(
                HcallOpcode.H_SCM_BIND_MEM,
                "map blocks of a device into the partition; repeat with the token while busy",
                (
                    _DRC,
                    Argument("start", Unit.BLOCKS, "first block"),
                    Argument("blocks", Unit.BLOCKS, "how many"),
                    Argument("target", Unit.ADDRESS, "where; all ones: the hypervisor chooses", _U64_MAX),
                    _TOKEN,
                ),
                (_R.H_BUSY, _R.H_PARAMETER, _R.H_P2, _R.H_P3, _R.H_P4, _R.H_P5, _R.H_OVERLAP),
                (
                    _NEXT_TOKEN,
                    Argument("address", Unit.ADDRESS, "of the first block"),
                    Argument("bound", Unit.BLOCKS, "bound so far"),
                ),
            ),
            _signature(
                HcallOpcode.H_SCM_UNBIND_MEM,
                "unmap blocks of a device; repeat with the token while busy",
                (
                    _DRC,
                    Argument("address", Unit.ADDRESS, "of the first block, on a block boundary"),
                    Argument("blocks", Unit.BLOCKS, "how many"),
                    _TOKEN,
                ),
                (_R.H_LONG_BUSY_ORDER_1_MSEC, _R.H_PARAMETER, _R.H_P2, _R.H_P3, _R.H_P4),
                (_NEXT_TOKEN, _UNBOUND),
            ),
            _signature(
                HcallOpcode.H_SCM_UNBIND_ALL,
                "unmap all blocks of one device or of all; repeat with the token while busy",
                (Argument("scope", Unit.MODE, "1 all devices, 2 this one"), replace(_DRC, default=0), _TOKEN),
                (_R.H_LONG_BUSY_ORDER_1_MSEC, _R.H_PARAMETER, _R.H_P2, _R.H_P4),
                (_NEXT_TOKEN, _UNBOUND),
            ),
            _signature(
                HcallOpcode.H_SCM_QUERY_BLOCK_MEM_BINDING,
                "ask where a block is mapped",
                (_DRC, Argument("block", Unit.BLOCKS, "number of the block")),
                (_R.H_PARAMETER, _R.H_P2, _R.H_NOT_FOUND, _R.H_FUNCTION),
                (Argument("address", Unit.ADDRESS, "where it is"),),
            ),
            _signature(
                HcallOpcode.H_SCM_QUERY_LOGICAL_MEM_BINDING,
                "ask which block is mapped at an address",
                (Argument("address", Unit.ADDRESS, "of any byte in the block"),),
                (_R.H_NOT_FOUND, _R.H_FUNCTION),
                (_DRC, Argument("block", Unit.BLOCKS, "number of the block")),
            ),
            _signature(
                HcallOpcode.H_SCM_HEALTH,
                "ask for a device's health",
                (_DRC,),
                (_R.H_PARAMETER, _R.H_HARDWARE),
                (
                    Argument("health", Unit.BITMAP, "what is the matter"),
                    Argument("valid", Unit.BITMAP, "which bits mean something"),
                ),
            ),
            _signature(
                HcallOpcode.H_SCM_PERFORMANCE_STATS,
                "fill a buffer with statistics; address and length 0 ask how long it has to be for all",
                (
                    _DRC,
                    Argument("address", Unit.ADDRESS, "of the buffer, with the request in it", 0),
                    Argument("length", Unit.BYTES, "of the buffer", 0),
                ),
                (
                    _R.H_PARTIAL,
                    _R.H_PARAMETER,
                    _R.H_P2,
                    _R.H_P3,
                    _R.H_AUTHORITY,
                    _R.H_UNSUPPORTED,
                    _R.H_FUNCTION,
                    _R.H_HARDWARE,
                ),
                (Argument("length", Unit.BYTES, "needed for all; with Partial: number of the first unknown entry"),),
            ),
            _signature(
                HcallOpcode.H_SCM_FLUSH,
                "make everything stored in a device durable; repeat with the token while busy",
                (_DRC, _TOKEN),
                (
                    _R.H_BUSY,
                    _R.H_LONG_BUSY_ORDER_10_MSEC,
                    _R.H_PARAMETER,
                    _R.H_P2,
                    _R.H_UNSUPPORTED,
                    _R.H_HARDWARE,
                ),
                (_NEXT_TOKEN,),
            ),
        )
    )
)
"""The hcalls of this hypervisor, by opcode."""


def signature_of(name: str) -> Signature:
    """Find a signature by name (``H_REG_CRQ``, ``reg_crq``) or opcode (``0xfc``).

    Raises :class:`ConfigError` that lists what there is.
    """
    wanted = name.strip().upper()
    for signature in SIGNATURES.values():
        if wanted in (signature.name, signature.name.removeprefix("H_")):
            return signature
    match = _NUMBER.fullmatch(name.strip())
    if match and not match[2]:
        number = _integer(match[1])
        if number is not None and number in SIGNATURES:
            return SIGNATURES[HcallOpcode(number)]
    known = ", ".join(sorted(signature.name for signature in SIGNATURES.values()))
    raise ConfigError(f"hcall {name!r}: expected one of {known}")


def parse_number(text: str, field: str = "number") -> int:
    """Read an unsigned 64-bit number: decimal, ``0x``, ``0o``, ``0b``; suffix k, M or G counts powers of 1024.

    Raises :class:`ConfigError` that names ``field``.
    """
    match = _NUMBER.fullmatch(text.strip())
    number = None if match is None else _integer(match[1])
    if match is None or number is None:
        raise ConfigError(f"{field}: {text!r}: expected a number such as 4096, 0x1000, 0o10000 or 4k")
    number *= _SIZES[match[2].lower()] if match[2] else 1
    if number > _U64_MAX:
        raise ConfigError(f"{field}: {text!r}: expected at most 64 bits")
    return number


def _integer(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:  # 0755: ambiguous, refused as Python does; 1__0
        return None


def parse_arguments(signature: Signature, words: Sequence[str]) -> tuple[int, ...]:
    """Registers from what a user typed: positional or ``name=value``, every argument once, unless it has a default.

    ``parse_arguments(H_REG_CRQ, ["unit=0x30000002", "0x1000", "4k"])`` gives ``(0x30000002, 0x1000, 4096)``.
    Positional values fill the arguments that have no value yet, in order.  Raises :class:`ConfigError` that names the
    argument and says what was expected.
    """
    names = [argument.name for argument in signature.inputs]
    values: dict[str, int] = {}
    positional: list[str] = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            positional.append(word)
            continue
        name = name.strip().lower()
        if name not in names:
            expected = ", ".join(names) or "no arguments"
            raise ConfigError(f"{signature.name}: unknown argument {name!r}: expected {expected}")
        if name in values:
            raise ConfigError(f"{signature.name}: argument {name!r} is given twice")
        values[name] = parse_number(text, f"{signature.name} {name}")
    missing = [name for name in names if name not in values]
    if len(positional) > len(missing):
        raise ConfigError(f"{signature.name}: {positional[len(missing)]!r} is one argument too many: {signature.usage}")
    for name, text in zip(missing, positional, strict=False):
        values[name] = parse_number(text, f"{signature.name} {name}")
    for argument in signature.inputs:
        if argument.name in values:
            continue
        if argument.default is not None:
            values[argument.name] = argument.default
        else:
            raise ConfigError(
                f"{signature.name}: argument {argument.name!r} is missing: {argument.meaning} ({argument.unit})"
            )
    return tuple(values[name] for name in names)


def continued(opcode: int, args: Sequence[int], outs: Sequence[int]) -> tuple[int, ...]:
    """Registers of the next try of a call that was busy: the same, with the token of r4 where the hcall takes one."""
    signature = SIGNATURES.get(HcallOpcode(opcode))
    at = next((n for n, a in enumerate(signature.inputs) if a.unit is Unit.TOKEN), None) if signature else None
    if at is None or not outs:
        return tuple(args)
    padded = [*args, *(0 for _ in range(at + 1 - len(args)))]
    padded[at] = outs[0]
    return tuple(padded)


def describe(opcode: int, args: Sequence[int]) -> str:
    """One line of a call for logs: ``H_REG_CRQ unit=0x30000002 queue=0x1000 length=0x1000``.

    Unknown opcodes and surplus registers print as numbers; missing ones are left out.
    """
    signature = SIGNATURES.get(HcallOpcode(opcode))
    words = [str(HcallOpcode(opcode))]
    for number, value in enumerate(args):
        if signature is None or number >= len(signature.inputs):
            words.append(f"{value:#x}")
        else:
            argument = signature.inputs[number]
            words.append(f"{argument.name}={value:#x}" if argument.unit in _HEX else f"{argument.name}={value}")
    return " ".join(words)
