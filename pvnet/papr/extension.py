"""How another system adds its hcalls to the platform's one dispatcher, without the platform knowing that system.

An :class:`HcallExtension` brings handlers for opcodes of its own.  It lives inside of the platform machine: its inputs
and outputs are inputs and outputs of the platform (they derive from :class:`ExtensionInput` and
:class:`ExtensionOutput`), so that one driver, one deadline and one recorded list of inputs serve all systems.

**The caller's memory.** A call that names a buffer reaches it through its :class:`Caller`, whether the memory is mapped
here, came along with the call, or is fetched and stored in chunks; the handler writes what comes next as a function
and need not know.  Whatever was checked before a fetch has to be checked again after it.

Spec: design "three primitives"; hcall_scm 1.1 (memory operands).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pvnet.core.machine import Note
from pvnet.papr.dispatch import Answer, Call


@dataclass(frozen=True, slots=True)
class ExtensionInput:
    """Base of everything that is fed to the platform for an extension."""


@dataclass(frozen=True, slots=True)
class ExtensionOutput:
    """Base of everything that an extension wants done."""


Fetched: TypeAlias = Callable[[bytes], Answer | None]
"""What a handler does with the bytes it fetched."""


class Caller(Protocol):
    """The partition that makes a call, as its handler sees it."""

    @property
    def name(self) -> str:
        """Name of the partition."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Size of its memory; addresses are 0 to this."""
        ...

    def fetch(self, call: Call, address: int, n: int, then: Fetched) -> Answer | None:
        """Read ``n`` bytes (at most a chunk) at real ``address``, which lie in its memory, and go on with ``then``.

        Bytes that came along with the call must be as many as it names, else H_HARDWARE; failing memory likewise.
        """
        ...

    def store(self, call: Call, address: int, data: bytes, answer: Answer) -> Answer | None:
        """Write ``data`` (at most a chunk) at real ``address``, which lies in its memory, then answer ``answer``.

        The bytes travel in the answer when the call brought its bytes along.
        """
        ...


class HcallExtension(Protocol):
    """Handlers of another system."""

    @property
    def opcodes(self) -> frozenset[int]:
        """The hcalls it answers."""
        ...

    def handle(self, caller: Caller, call: Call, now: float) -> Answer | None:
        """Answer a call; ``None``: the answer comes later, from the caller's memory."""
        ...

    def accepts(self, event: ExtensionInput) -> bool:
        """Whether this input is for this extension."""
        ...

    def feed(self, event: ExtensionInput, now: float) -> list[ExtensionOutput | Note]:
        """Consume an input that it accepts and return the consequences in order."""
        ...

    def started(self, partition: str, memory_bytes: int, now: float) -> None:
        """A partition has come up."""
        ...

    def died(self, partition: str) -> None:
        """A partition has ended."""
        ...

    def take(self) -> list[ExtensionOutput | Note]:
        """The consequences of calls since the last time, in order."""
        ...
