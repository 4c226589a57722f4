"""The migration state machine of a device.

A user names the state it wants; the device walks there over single arcs.  :data:`NEXT_HOP` says which state is next on
the way, :data:`ARCS` what an arc does::

                     ┌──────── PRE_COPY ────────┐
                     ▼                          ▼
    RESUMING ◀──▶ STOP ◀──▶ RUNNING ◀──▶ …   STOP_COPY ◀──▶ STOP

Where an arc fails, the device stays in the state it had reached, which is a good one: nothing has happened yet.  Only
a failure that is no :class:`~pvnet.mdev.errors.MdevError` leaves ERROR behind, because nobody knows how far it came;
from there, as from everywhere, a reset leads to RUNNING.

The stream: read in PRE_COPY and STOP_COPY, where ``b""`` means "nothing for now" and "that was all"; written in
RESUMING, taken over by the device on the arc to STOP.  A stream in which one piece has failed is broken for good: it
answers EIO, respectively it is not taken over.

States with P2P are not offered: DMA between two devices does not exist here.

Spec: mdev 4.8, 6.5, 8.1 (migration), 9.2 (B31, B32).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Final

from pvnet.mdev.device import MdevDevice, MigrationOps
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guard import DeviceFailedError, Guard
from pvnet.mdev.names import MigrationFlag
from pvnet.mdev.names import MigrationState as State
from pvnet.papr.errno import EBUSY, EINVAL, EIO

S, R, C, I, P = State.STOP, State.RUNNING, State.STOP_COPY, State.RESUMING, State.PRE_COPY  # noqa: E741

NEXT_HOP: Final[Mapping[tuple[State, State], State]] = {
    (S, S): S, (S, R): R, (S, C): C, (S, I): I, (S, P): R,
    (R, S): S, (R, R): R, (R, C): S, (R, I): S, (R, P): P,
    (C, S): S, (C, R): S, (C, C): C, (C, I): S,
    (I, S): S, (I, R): S, (I, C): S, (I, I): I, (I, P): S,
    (P, S): R, (P, R): R, (P, C): C, (P, I): R, (P, P): P,
}  # fmt: skip
"""(state, wanted state): the next one.  What is missing is EINVAL."""

STOPPED: Final = frozenset({State.STOP, State.STOP_COPY})
"""States in which a user reaches little: spec 6.5."""

_FLAGS: Final = int(MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY)


class Migration:
    """State and stream of one device."""

    def __init__(self, device: MdevDevice, guard: Guard, busy: Callable[[], bool] = lambda: False) -> None:
        """Begin in RUNNING; ``busy``: something is under way that must end before the device can stop."""
        self._device = device
        self._guard = guard
        self._busy = busy
        self._state = State.RUNNING
        self._broken = False
        self._ended = False
        self.on_state: Callable[[State], None] | None = None
        """Hears of every state that is reached."""

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    @property
    def flags(self) -> int:
        """:class:`~pvnet.mdev.names.MigrationFlag` that users can rely on; 0: no migration at all."""
        ops = self._device.migration
        return ops.flags & _FLAGS if ops is not None and ops.flags & MigrationFlag.STOP_COPY else 0

    @property
    def _ops(self) -> MigrationOps:
        ops = self._device.migration
        if ops is None or not self.flags:
            raise MdevError(EINVAL, "the device cannot migrate")
        return ops

    def remaining(self) -> int:
        """Estimate of the bytes that the stream would still give.

        :raises MdevError: EINVAL, no migration.
        """
        return max(0, self._guard.ask("remaining", self._ops.remaining))

    def set_state(self, wanted: int) -> None:
        """Walk to a state.

        :raises MdevError: EINVAL no such state or no way there; EBUSY it would have to stop while something is under
            way, so quiesce first; else what an arc has answered.
        """
        path = self.path(wanted)
        if self._busy() and any(ARCS[arc] is Migration._stop for arc in pairwise([self._state, *path])):
            raise MdevError(EBUSY, "programs are under way")
        for target in path:
            self._arc(target)

    def path(self, wanted: int) -> list[State]:
        """Return the states on the way, the last is ``wanted``; empty when it is there.

        :raises MdevError: EINVAL.
        """
        flags = self.flags
        if not flags or wanted not in {*State}:
            raise MdevError(EINVAL, f"migration state {wanted}")
        target = State(wanted)
        if target is State.PRE_COPY and not flags & MigrationFlag.PRE_COPY:
            raise MdevError(EINVAL, "no PRE_COPY")
        path: list[State] = []
        at = self._state
        while at is not target or not path:
            following = NEXT_HOP.get((at, target))
            if following is None:
                raise MdevError(EINVAL, f"no way from {at.name} to {target.name}")
            if following is at:
                break
            path.append(following)
            at = following
        return path

    def _arc(self, target: State) -> None:
        source = self._state
        try:
            self._guard.ask(f"{source.name} to {target.name}", ARCS[source, target], self)
        except DeviceFailedError:
            self._enter(State.ERROR)
            raise
        self._enter(target)

    def _enter(self, state: State) -> None:
        self._state = state
        if self.on_state is not None:
            self.on_state(state)

    # --- arcs ---------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._device.stop()

    def _start(self) -> None:
        self._device.start()

    def _save_begin(self) -> None:
        self._broken = self._ended = False
        self._ops.save_begin()

    def _restore_begin(self) -> None:
        self._broken = False
        self._ops.restore_begin()

    def _restore_end(self) -> None:
        if self._broken:
            raise MdevError(EINVAL, "a piece of the stream was refused")
        self._ops.restore_end()

    def _nothing(self) -> None:
        """The stream ends where it is."""

    # --- the stream ---------------------------------------------------------------------------------------------------

    def read(self, limit: int) -> bytes:
        """Return at most ``limit`` bytes.

        :raises MdevError: EINVAL not in PRE_COPY or STOP_COPY, or no limit; EIO the stream is broken.
        """
        state = self._state
        if state not in (State.PRE_COPY, State.STOP_COPY) or limit <= 0:
            raise MdevError(EINVAL, f"read {limit} bytes of the stream in {state.name}")
        if self._broken:
            raise MdevError(EIO, "the stream is broken")
        if self._ended:
            return b""
        ops = self._ops
        try:
            piece = self._guard.ask("save", self._piece, ops.precopy if state is State.PRE_COPY else ops.save, limit)
        except MdevError:
            self._broken = True
            raise
        self._ended = not piece and state is State.STOP_COPY
        return piece

    @staticmethod
    def _piece(source: Callable[[int], object], limit: int) -> bytes:
        piece = source(limit)
        if not isinstance(piece, bytes) or len(piece) > limit:
            raise TypeError(f"no piece of at most {limit} bytes")
        return piece

    def write(self, data: bytes) -> None:
        """Take a piece.

        :raises MdevError: EINVAL not in RESUMING; EIO the stream is broken; else what the device says of it.
        """
        if self._state is not State.RESUMING:
            raise MdevError(EINVAL, f"a piece of the stream in {self._state.name}")
        if self._broken:
            raise MdevError(EIO, "the stream is broken")
        if not data:
            return
        try:
            self._guard.ask("restore", self._ops.restore, data)
        except MdevError:
            self._broken = True
            raise

    # --- without asking -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset the device and have it run; what was under way is dropped.

        :raises MdevError: the device refuses, and nothing has changed; or it has failed, which is ERROR unless it ran.
        """
        try:
            self._guard.ask("reset", self._device.reset)
            if self._state not in (State.RUNNING, State.PRE_COPY):
                self._guard.ask("start", self._device.start)
        except DeviceFailedError:
            if self._state is not State.RUNNING:
                self._enter(State.ERROR)
            raise
        if self._state is not State.RUNNING:
            self._enter(State.RUNNING)

    def abandon(self) -> None:
        """The user who began it is gone: let the device run again; never raises."""
        good = True
        if self._state is State.ERROR:
            good = self._guard.tell("reset", self._device.reset)
        if good and self._state not in (State.RUNNING, State.PRE_COPY):
            good = self._guard.tell("start", self._device.start)
        if not good:
            self._enter(State.ERROR)
        elif self._state is not State.RUNNING:
            self._enter(State.RUNNING)


ARCS: Final[Mapping[tuple[State, State], Callable[[Migration], None]]] = {
    (R, S): Migration._stop,
    (S, R): Migration._start,
    (R, P): Migration._save_begin,
    (P, R): Migration._nothing,
    (P, C): Migration._stop,
    (S, C): Migration._save_begin,
    (C, S): Migration._nothing,
    (S, I): Migration._restore_begin,
    (I, S): Migration._restore_end,
}
"""What a single arc does."""
