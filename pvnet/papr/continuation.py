"""Continuation tokens: how an hcall that takes long is cut into calls that return at once.

The first call of an operation has token 0.  While it is not finished the hypervisor answers H_BUSY or a long busy with
a token in r4; the caller repeats the *same* call with that token until the answer is something else.  (The caller's
half of the rule is :mod:`pvnet.papr.retry`.)

A token is opaque, never 0, and good for one thing: this hcall of this partition on this target (a DRC, or none), with
the same other arguments.  A :class:`Place` names all three, so that a token that was forged, used up, of another
device, another hcall or another life of the partition finds nothing: the handler answers the code of the token's
argument and nobody ever gets another caller's result.

Doubts decided.  Changed arguments with a good token are refused too, and the operation stays: its owner may still go
on.  Tokens count upward per place from a first value and are not reused while the place lives, so that a stale one is
recognised.  The number of open operations of a place is bounded, because a guest may abandon as many as it likes.

Spec: hcall_scm 1.7, 6.1 (8-10, 12, 15); DOC "papr_hcalls", continue-token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from pvnet.core.errors import LocalError

WorkT = TypeVar("WorkT")
FIRST_TOKEN: Final = 1
_U64: Final = 1 << 64


class Place(NamedTuple):
    """Where a token is good: the caller, the hcall, and what it works on (``None``: no particular thing)."""

    partition: str
    opcode: int
    target: int | None


class _Open(Generic[WorkT]):
    __slots__ = ("args", "work")

    def __init__(self, args: tuple[int, ...], work: WorkT) -> None:
        self.args = args
        self.work = work


class Continuations(Generic[WorkT]):
    """Open operations by place and token; ``limit`` is how many one place may have.

    :raises LocalError: ``limit`` below 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise LocalError(f"limit {limit}: expected at least 1")
        self.limit = limit
        self._open: dict[Place, dict[int, _Open[WorkT]]] = {}
        self._next: dict[Place, int] = {}

    def start(self, place: Place, args: tuple[int, ...], work: WorkT, first: int = FIRST_TOKEN) -> int | None:
        """Open an operation and return its token; ``None`` when the place has too many.

        :param args: the call's other arguments, which every continuation has to repeat.
        :param first: the place's first token ever, above 0.
        """
        here = self._open.setdefault(place, {})
        if len(here) >= self.limit:
            return None
        token = self._token(place, first)
        here[token] = _Open(args, work)
        return token

    def find(self, place: Place, token: int, args: tuple[int, ...]) -> WorkT | None:
        """The operation that a continuation belongs to, or ``None``: the token is not good here, or ``args`` differ."""
        entry = self._open.get(place, {}).get(token)
        return None if entry is None or entry.args != args else entry.work

    def renew(self, place: Place, token: int) -> int:
        """Give an operation another token; the old one is used up.

        :raises LocalError: no such operation.
        """
        entry = self._pop(place, token)
        new = self._token(place, token)
        self._open[place][new] = entry
        return new

    def finish(self, place: Place, token: int) -> WorkT:
        """Close an operation; its token is used up.

        :raises LocalError: no such operation.
        """
        return self._pop(place, token).work

    def of_partition(self, partition: str) -> Iterator[tuple[Place, int, WorkT]]:
        """Everything open of a partition, whatever the hcall and the target; the caller may close it meanwhile."""
        for place, here in list(self._open.items()):
            if place.partition == partition:
                for token, entry in list(here.items()):
                    yield place, token, entry.work

    def count(self, place: Place) -> int:
        """Open operations of a place."""
        return len(self._open.get(place, {}))

    def drop_partition(self, partition: str) -> list[WorkT]:
        """Forget everything of a partition that has ended; its later lives get later tokens."""
        return [work for place in list(self._open) if place.partition == partition for work in self._drop(place)]

    def drop_target(self, partition: str, target: int) -> list[WorkT]:
        """Forget everything of a target that has gone; what is attached there next gets later tokens."""
        places = [place for place in self._open if (place.partition, place.target) == (partition, target)]
        return [work for place in places for work in self._drop(place)]

    def _drop(self, place: Place) -> list[WorkT]:
        return [entry.work for entry in self._open.pop(place, {}).values()]

    def _pop(self, place: Place, token: int) -> _Open[WorkT]:
        entry = self._open.get(place, {}).pop(token, None)
        if entry is None:
            raise LocalError(f"no open operation {token:#x} at {place}")
        return entry

    def _token(self, place: Place, first: int) -> int:
        token = self._next.get(place, first)
        self._next[place] = (token + 1) % _U64 or FIRST_TOKEN
        return token
