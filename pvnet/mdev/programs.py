"""Work of a device that touches the user's memory: generators, run as far as the memory allows.

A :class:`Program` is one :data:`~pvnet.mdev.device.Steps` under way.  Where all that it touches is mapped here, it ends
before :meth:`Programs.start` returns; else it waits for the answers of the user, one message at a time, beside all
other programs.  An access is checked as a whole before its first byte is touched; then it is split where maps meet and
where a message would become too long.  What a user does afterwards (a file that gets shorter, an error answer to the
second of two messages) can still leave the first part of a write behind.

Memory that is unmapped is never touched again: an access under way there ends with EFAULT at once, and the answer that
may still come is ignored.

Spec: mdev 4, 6.4, 9.3.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from pvnet.core.errors import LocalError
from pvnet.mdev.device import DmaRead, DmaReadInto, DmaRequest, DmaWrite, Steps
from pvnet.mdev.dirty import DirtyPages
from pvnet.mdev.dma import DmaRegion, DmaTable, Piece
from pvnet.mdev.errors import MdevError
from pvnet.mdev.guard import Guard
from pvnet.mdev.user import DeviceUser, DmaMemory
from pvnet.papr.errno import EBUSY, EFAULT, EINVAL, EIO, ENODEV

T = TypeVar("T")

MAX_ACCESS: Final = 1 << 26
"""Most bytes of one access."""
MAX_PROGRAMS: Final = 256
"""Most programs of one device under way."""

Answer: TypeAlias = bytes | MdevError
Message: TypeAlias = tuple[int, int, memoryview | None]
"""What the user is asked: address, bytes, the data of a write."""


class Pending(Generic[T]):
    """A result that waits for the user's memory."""

    __slots__ = ("_done", "_result")

    def __init__(self) -> None:
        self._result: list[T | MdevError] = []
        self._done: Callable[[T | MdevError], None] | None = None

    def then(self, done: Callable[[T | MdevError], None]) -> None:
        """Have ``done`` called with it, exactly once; now, if it is there already."""
        if self._done is not None:
            raise LocalError("the result of an access is waited for already")
        self._done = done
        if self._result:
            done(self._result[0])

    def now(self) -> T | Pending[T]:
        """Return the result if it is there, else itself.

        :raises MdevError: that is the result.
        """
        if not self._result:
            return self
        (result,) = self._result
        if isinstance(result, MdevError):
            raise result
        return result

    def resolve(self, result: T | MdevError) -> None:
        """Here it is."""
        if self._result:
            raise LocalError("the result of an access is there already")
        self._result.append(result)
        if self._done is not None:
            self._done(result)


class Program(Generic[T]):
    """A generator under way."""

    __slots__ = ("_answers", "_busy", "_done", "_over", "_owner", "_steps", "_ticket", "_transfer", "_where", "owed")

    def __init__(self, owner: Programs, steps: Steps[T], done: Callable[[T | MdevError], None], *, owed: bool) -> None:
        self.owed = owed
        """Whether ``done`` hears also when it is dropped."""
        self._owner = owner
        self._steps = steps
        self._done = done
        self._answers: list[Answer | None] = []
        self._busy = self._over = False
        self._transfer: Generator[Message, Answer, bytes] | None = None
        self._where = (0, 0)
        self._ticket = 0

    def cancel(self) -> None:
        """Call it off; ``done`` is not called; idempotent."""
        self.drop(None)
        self._owner.settle()

    def drop(self, error: MdevError | None) -> None:
        """Call it off; ``error`` goes to whoever is owed an answer."""
        if self._over:
            return
        self._over = True
        self._close()
        self._owner.leave(self)
        if error is not None and self.owed:
            self._done(error)

    def touches(self, address: int, size: int) -> bool:
        """Whether it waits for something in this memory."""
        start, length = self._where
        return self._transfer is not None and start < address + size and address < start + length

    def go(self, answer: Answer | None = None) -> None:
        """Resume with an answer (None: begin), and run until one is outstanding."""
        self._ticket += 1
        self._answers.append(answer)
        if self._busy or self._over:
            return
        self._busy = True
        try:
            while self._answers and not self._over:
                self._step(self._answers.pop())
        finally:
            self._busy = False
        self._close()

    def _step(self, answer: Answer | None) -> None:
        """Take an answer, to an access or to one message of it."""
        if self._transfer is not None:
            answer = self._next_message(self._transfer, answer)
            if answer is None or self._over:
                return
            self._transfer = None
        self._run(answer)

    def _run(self, answer: Answer | None) -> None:
        """Run the program until an answer is outstanding; what is there already is answered on the way."""
        steps, perform = self._steps, self._perform
        try:
            while True:
                request = steps.throw(answer) if isinstance(answer, MdevError) else steps.send(answer)  # type: ignore[arg-type]
                if self._over:
                    return
                answer = perform(request)
                if answer is None:
                    return
        except StopIteration as stop:
            self._finish(stop.value)
        except MdevError as refusal:
            self._finish(refusal)
        except Exception as failure:  # noqa: BLE001 - a third party's
            self._finish(self._owner.guard.failed("program", failure))

    def _perform(self, request: DmaRequest) -> Answer | None:
        """Perform an access; returns what it gives, or why not; None: the user is asked."""
        owner = self._owner
        try:
            found = _at_once(request, owner.table, owner.dirty)
            if found is not None:
                return found
            data, target, length = _described(request)
            if not length:
                return b""
            if not 0 < length <= MAX_ACCESS:
                raise MdevError(EINVAL, f"an access of {length} bytes")
            address = request.address
            pieces = owner.table.pieces(address, length, write=data is not None)
        except MdevError as error:
            return error
        except Exception as failure:  # noqa: BLE001 - a third party's: no request, or no bytes
            return owner.guard.failed("program", failure)
        self._transfer = owner.transfer(address, pieces, data, target)
        self._where = (address, length)
        answer = self._next_message(self._transfer, None)
        if answer is not None:
            self._transfer = None
        return answer

    def _next_message(self, transfer: Generator[Message, Answer, bytes], answer: Answer | None) -> Answer | None:
        """Send the next message of an access; returns what the access has given, or why not, if it is over."""
        try:
            if answer is None:
                address, length, data = next(transfer)
            else:
                address, length, data = transfer.send(answer)
            self._ask(address, length, data)
        except StopIteration as stop:
            whole: bytes = stop.value
            return whole
        except MdevError as error:
            return error
        except Exception as failure:  # noqa: BLE001 - a third party's: its bytes are gone
            return self._owner.guard.failed("program", failure)
        return None

    def _ask(self, address: int, length: int, data: memoryview | None) -> None:
        """Send a message."""
        user, ticket = self._owner.user, self._ticket
        if user is None:
            raise MdevError(ENODEV, "the user is gone")

        def came(result: bytes | MdevError | None) -> None:
            if self._ticket == ticket:
                self.go(b"" if result is None else result)

        if data is None:
            user.dma_read(address, length, came)
        else:
            user.dma_write(address, bytes(data), came)

    def unmapped(self) -> None:
        """What it waits for is no longer the user's to give."""
        self._transfer = None
        self.go(MdevError(EFAULT, f"{self._where[0]:#x} is unmapped"))

    def _finish(self, result: T | MdevError) -> None:
        if self._over:
            return
        self._over = True
        self._owner.leave(self)
        self._done(result)
        self._owner.settle()

    def _close(self) -> None:
        """Let go of the generator once it is over and does not run."""
        if not self._over or self._busy:
            return
        self._transfer = None
        self._owner.guard.tell("end of a program", self._steps.close)


class AnyProgram(Protocol):
    """A program, whatever it returns."""

    def drop(self, error: MdevError | None) -> None:
        """See :meth:`Program.drop`."""
        ...

    def touches(self, address: int, size: int) -> bool:
        """See :meth:`Program.touches`."""
        ...

    def unmapped(self) -> None:
        """See :meth:`Program.unmapped`."""
        ...


class Programs:
    """All programs of one device, for one user at a time."""

    def __init__(self, table: DmaTable, dirty: DirtyPages, guard: Guard) -> None:
        self.table = table
        self.dirty = dirty
        self.guard = guard
        self.user: DeviceUser | None = None
        self._under_way: dict[AnyProgram, None] = {}
        self._waiting: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._under_way)

    def start(self, steps: Steps[T], done: Callable[[T | MdevError], None], *, owed: bool) -> Program[T]:
        """Run a program; ``done`` hears how it ended, perhaps before this returns.

        :raises MdevError: EBUSY, too many; ``done`` is not called.
        """
        if len(self._under_way) >= MAX_PROGRAMS:
            self.guard.tell("end of a program", steps.close)
            raise MdevError(EBUSY, f"more than {MAX_PROGRAMS} programs")
        program = Program(self, steps, done, owed=owed)
        self._under_way[program] = None
        program.go()
        return program

    def leave(self, program: AnyProgram) -> None:
        """A program has ended."""
        self._under_way.pop(program, None)

    def drop_all(self, error: MdevError) -> None:
        """End all of them."""
        for program in tuple(self._under_way):
            program.drop(error)
        self.settle()

    def unmapped(self, region: DmaRegion) -> None:
        """Memory has gone: what waits for it fails."""
        for program in tuple(self._under_way):
            if program.touches(region.address, region.size):
                program.unmapped()

    def when_idle(self, done: Callable[[], None]) -> None:
        """Call ``done`` as soon as nothing is under way; now, if nothing is."""
        self._waiting.append(done)
        self.settle()

    def settle(self) -> None:
        """Tell those who wait, if nothing is under way."""
        while self._waiting and not self._under_way:
            self._waiting.pop(0)()

    def transfer(
        self, start: int, pieces: list[Piece], data: memoryview | None, target: memoryview | None
    ) -> Generator[Message, Answer, bytes]:
        """Perform an access at ``start``; yields what the user has to be asked, is resumed with its answers.

        With ``data`` it stores, with ``target`` it reads into that.
        """
        address, parts = start, []
        for region, offset, length in pieces:
            left = length
            while left:
                most = left if region.memory is not None or self.user is None else max(1, self.user.max_transfer)
                part, at = min(left, most), address - start
                chunk = None if data is None else data[at : at + part]
                try:
                    if region.memory is not None:
                        answer: Answer = _direct(region.memory, offset + length - left, part, chunk)
                    else:
                        answer = yield address, part, chunk
                finally:
                    if chunk is not None:
                        self.dirty.mark(address, part)
                if isinstance(answer, MdevError):
                    raise answer
                if chunk is None and len(answer) != part:
                    raise MdevError(EIO, f"{len(answer)} bytes of memory instead of {part}")
                if target is not None:
                    target[at : at + part] = answer
                else:
                    parts.append(answer)
                address, left = address + part, left - part
        return b"".join(parts)


def _at_once(request: object, table: DmaTable, dirty: DirtyPages) -> bytes | None:
    """Perform an access to memory that is mapped here, in one piece; None: it is not so simple.

    What is wrong with the bytes of a device shows when they are copied.
    """
    if isinstance(request, DmaRead):
        address, length = request.address, request.length
        view = table.view(address, length, write=False) if 0 < length <= MAX_ACCESS else None
        return None if view is None else bytes(view)
    if isinstance(request, DmaWrite):
        address, data = request.address, request.data
        length = len(data)
        view = table.view(address, length, write=True) if 0 < length <= MAX_ACCESS else None
        if view is None:
            return None
        dirty.mark(address, length)
        view[:] = data
        return b""
    if isinstance(request, DmaReadInto):
        target: object = request.target
        length = len(target) if isinstance(target, memoryview) else 0
        view = table.view(request.address, length, write=False) if 0 < length <= MAX_ACCESS else None
        if view is None:
            return None
        request.target[:] = view
        return b""
    return None


def _described(request: DmaRequest) -> tuple[memoryview | None, memoryview | None, int]:
    """Return what a request stores, where it reads to (None: it wants the bytes), how many bytes.

    :raises TypeError: it is no request, or not of plain bytes.
    """
    if isinstance(request, DmaRead):
        return None, None, request.length
    if isinstance(request, DmaWrite):
        data = memoryview(request.data)
        _check_plain(data)
        return data, None, len(data)
    if not isinstance(request, DmaReadInto):
        raise TypeError(f"a {type(request).__name__} instead of a request")
    _check_plain(request.target)
    if request.target.readonly:
        raise TypeError("a target that is read-only")
    return None, request.target, len(request.target)


def _check_plain(view: memoryview) -> None:
    if view.format != "B" or view.ndim != 1:
        raise TypeError(f"items of format {view.format!r} in {view.ndim} dimensions instead of bytes")


def _direct(memory: DmaMemory, offset: int, length: int, data: memoryview | None) -> bytes:
    """Perform an access to memory that can be touched here."""
    view = memory.view
    if data is None:
        return bytes(view[offset : offset + length]) if view is not None else memory.read(offset, length)
    if view is not None:
        view[offset : offset + length] = data
    else:
        memory.write(offset, data)
    return b""
