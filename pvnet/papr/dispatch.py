"""One table from opcode to handler: how every hcall enters the hypervisor.

Order of the checks, the same for every call: problem state (H_PRIVILEGE), opcode in the table (else H_FUNCTION), every
argument an unsigned 64-bit value and at most nine of them (else H_PARAMETER; only a broken peer can send others).
Arguments that the caller did not send read as zero.  An opcode with one of its two low bits set is never in the table,
except in the platform-dependent window 0xF000 - 0xFFFF, where QEMU numbers without dividing by four.

A handler returns its :class:`Answer`, or ``None`` when the answer comes later.

Spec: LoPAR ch. 14 "hcall tokens"; hcall_scm 1.1, 1.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from pvnet.core.errors import LocalError
from pvnet.papr.hcall import HcallRc

MAX_ARGS: Final = 9
"""r4 to r12."""
_PADDING: Final = (0,) * MAX_ARGS
_U64_MAX: Final = (1 << 64) - 1
_PLATFORM_WINDOW: Final = range(0xF000, 0x10000)

CallerT = TypeVar("CallerT")


class Call(NamedTuple):
    """A call that passed the dispatcher: exactly nine unsigned 64-bit ``args``, zero where the caller sent none."""

    opcode: int
    args: tuple[int, ...]
    tag: int = 0
    memory: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Signed ``rc``; the registers written, from r4 upward; bytes for the caller's own memory."""

    rc: int
    outs: tuple[int, ...] = ()
    memory: bytes | None = None


Handler: TypeAlias = Callable[[CallerT, Call], Answer | None]


class Dispatcher(Generic[CallerT]):
    """Opcode to handler; ``CallerT`` is whatever stands for the calling partition."""

    def __init__(self) -> None:
        self._handlers: dict[int, Handler[CallerT]] = {}

    def register(self, opcode: int, handler: Handler[CallerT]) -> None:
        """Add a handler.

        :raises LocalError: the opcode has a handler, or is none (low bits set outside of the platform's window).
        """
        if opcode in self._handlers:
            raise LocalError(f"hcall {opcode:#x} has a handler already")
        if opcode <= 0 or (opcode & 3 and opcode not in _PLATFORM_WINDOW):
            raise LocalError(f"hcall {opcode:#x}: expected a positive multiple of 4")
        self._handlers[int(opcode)] = handler

    @property
    def opcodes(self) -> frozenset[int]:
        """Every opcode with a handler."""
        return frozenset(self._handlers)

    def dispatch(
        self,
        caller: CallerT,
        opcode: int,
        args: tuple[int, ...],
        *,
        tag: int = 0,
        memory: bytes | None = None,
        problem_state: bool = False,
    ) -> Answer | None:
        """Run a call; ``None``: its handler answers later.  Never raises, whatever the caller sent."""
        if problem_state:
            return Answer(HcallRc.H_PRIVILEGE)
        handler = self._handlers.get(opcode)
        if handler is None:
            return Answer(HcallRc.H_FUNCTION)
        if len(args) > MAX_ARGS:
            return Answer(HcallRc.H_PARAMETER)
        for arg in args:
            if not 0 <= arg <= _U64_MAX:
                return Answer(HcallRc.H_PARAMETER)
        return handler(caller, Call(opcode, args + _PADDING[len(args) :], tag, memory))
