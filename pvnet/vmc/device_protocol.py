"""A character device over a byte stream: what travels between a program elsewhere and the process that has the device.

One connection is one open file.  Everything is a frame: 16 bytes of header, big-endian, then ``length`` bytes::

    u32 length | u32 tag | u16 operation | u16 flags | u32 argument (a reply: s32 result) | data

The client says HELLO with the path of the device and gets the result of open().  Then it makes calls, several at
once, told apart by their tags; every call but INTERRUPT and ARM is answered by a frame of the same operation and tag.
A client that asked for it in HELLO gets READABLE (tag 0) when there is something to read, so that it can wait in poll()
for its socket alone:

* At most one READABLE is under way: after one the next comes only when a READ was answered, or after ARM.
* The end of a session that somebody waits for is told as well (result 0 instead of POLLIN), and so is ARM's answer when
  there is no session that could become readable.

This module is the codec and the server's machine: bytes and results of calls in, bytes and calls out; no socket, no
loop.  Whatever a peer sends, the machine does not raise: it answers an errno, or ends the connection with a reason.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pvnet.core.errors import WireError
from pvnet.core.machine import Counters
from pvnet.papr.errno import EBADF, EINVAL, ENOBUFS, EOPNOTSUPP

MAGIC: Final = b"PVDV"
VERSION: Final = 1
HEADER: Final = struct.Struct(">IIHHI")
_REPLY: Final = struct.Struct(">IIHHi")
HELLO: Final = struct.Struct(">4sHH")
"""Data of HELLO before the path: magic, version (the highest that the client speaks), options."""
WELCOME: Final = struct.Struct(">4sHHII")
"""Data of HELLO's reply: magic, version (that is spoken), options granted, longest data, calls at once."""

OPTION_EVENTS: Final = 1
"""READABLE is wanted."""
OPTION_BIG_ENDIAN: Final = 2
"""The client's C structures are big-endian: results of ioctls come so."""
OPTIONS: Final = OPTION_EVENTS | OPTION_BIG_ENDIAN
FLAG_NONBLOCK: Final = 1
"""READ, POLL: answer at once."""

MAX_DATA: Final = 65536
"""Longest data of a frame in bytes, either way."""
MAX_CALLS: Final = 64
"""Calls of a connection that are not answered yet."""
MAX_PATH: Final = 255

WATCH: Final = 0
"""Tag of the machine's own POLL that waits; no client may use it."""
MARK: Final = 1 << 32
"""Tag of the machine's own POLL that does not wait; no client can use it."""


class Op(IntEnum):
    """Operation of a frame."""

    HELLO = 1
    IOCTL = 2
    READ = 3
    WRITE = 4
    POLL = 5
    INTERRUPT = 6
    ARM = 7
    CLOSE = 8
    READABLE = 9


_CALLS: Final = frozenset({Op.IOCTL, Op.READ, Op.WRITE, Op.POLL, Op.CLOSE})


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame; ``argument`` is unsigned in a request and signed (a result) in what the server sends."""

    op: int
    tag: int = 0
    argument: int = 0
    data: bytes = b""
    flags: int = 0

    def request(self) -> bytes:
        """As a client sends it."""
        return HEADER.pack(len(self.data), self.tag, self.op, self.flags, self.argument) + self.data

    def reply(self) -> bytes:
        """As the server sends it."""
        return _REPLY.pack(len(self.data), self.tag, self.op, self.flags, self.argument) + self.data


class FrameReader:
    """Takes a stream apart; ``replies`` says whose: a server's results are signed."""

    def __init__(self, *, replies: bool, max_data: int = MAX_DATA) -> None:
        self._header = _REPLY if replies else HEADER
        self._max_data = max_data
        self._held = bytearray()

    @property
    def held(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._held)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now.

        Raises:
            WireError: a frame is longer than agreed; the stream cannot be read any further.
        """
        held = self._held
        held += data
        while len(held) >= HEADER.size:
            length, tag, op, flags, argument = self._header.unpack_from(held)
            if length > self._max_data:
                raise WireError(f"frame with {length} bytes of data", offset=0, expected=f"at most {self._max_data}")
            end = HEADER.size + length
            if len(held) < end:
                return
            body = bytes(memoryview(held)[HEADER.size : end])
            del held[:end]
            yield Frame(op, tag, argument, body, flags)


def encode_hello(path: str, options: int = 0, *, version: int = VERSION) -> bytes:
    """Return the first frame of a client; its tag is 1."""
    data = HELLO.pack(MAGIC, version, options) + path.encode()
    return Frame(Op.HELLO, 1, 0, data).request()


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the server agreed to."""

    version: int
    options: int
    max_data: int
    max_calls: int

    def encode(self) -> bytes:
        """Data of HELLO's reply."""
        return WELCOME.pack(MAGIC, self.version, self.options, self.max_data, self.max_calls)

    @classmethod
    def decode(cls, raw: bytes) -> Welcome:
        """Take it apart; later versions may add to it.

        Raises:
            WireError: it is none.
        """
        if len(raw) < WELCOME.size or raw[:4] != MAGIC:
            raise WireError(
                f"greeting {raw[:16].hex()}", offset=0, expected=f"{MAGIC!r} and {WELCOME.size} bytes in all"
            )
        _, version, options, max_data, max_calls = WELCOME.unpack_from(raw)
        if not version:
            raise WireError("version 0", offset=4, expected=f"1 to {VERSION}")
        return cls(version, options, max_data, max_calls)


@dataclass(frozen=True, slots=True)
class DeviceCall:
    """A call for the device; :meth:`ServerMachine.done` takes its result.  ``handle`` is 0 and ``path`` set to open."""

    tag: int
    op: Op
    handle: int
    argument: int = 0
    data: bytes = b""
    nonblock: bool = False
    path: str = ""


class ServerMachine:
    """The server's end of a connection.

    ``perform`` makes a call on the device, or opens it (HELLO); its end is told to :meth:`done`, at once or later, and
    calls must reach the device in the order of ``perform``.  ``interrupt(tag)`` ends a call that waits.  ``send`` takes
    bytes for the client; ``close(reason)`` ends the connection when they have left.
    """

    def __init__(
        self,
        *,
        perform: Callable[[DeviceCall], None],
        interrupt: Callable[[int], None],
        send: Callable[[bytes], None],
        close: Callable[[str], None],
        byteorder: str = "little",
    ) -> None:
        self.counters = Counters()
        self.is_open = False
        """Whether the client has said HELLO and has the device open."""
        self._perform, self._interrupt, self._send_bytes, self._end = perform, interrupt, send, close
        self._byteorder = byteorder
        self._reader = FrameReader(replies=False)
        self._greeting = 0
        """Tag of HELLO while the device is being opened."""
        self._options = 0
        self._version = 0
        self._handle = 0
        self._calls: dict[int, Op] = {}
        self._is_closing = False
        self._is_over = False
        self._watching = False
        self._marked = False
        """Whether the machine's POLL is known to wait: one behind it has been answered."""
        self._marks = 0
        """Answers of the other POLL that are to come."""
        self._arm_answers = False
        """Whether an ARM waits for its READABLE."""

    @property
    def calls(self) -> int:
        """How many calls of the client are not answered yet."""
        return len(self._calls)

    @property
    def is_over(self) -> bool:
        """Whether the connection has been ended from here."""
        return self._is_over

    # --- what comes from the client -----------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        try:
            for frame in self._reader.feed(data):
                if self._is_over:
                    return
                self._frame(frame)
        except WireError as error:
            self._close(str(error))

    def _frame(self, frame: Frame) -> None:
        if not self.is_open:
            self._hello(frame)
        elif frame.op == Op.INTERRUPT:
            if frame.argument in self._calls:
                self._interrupt(frame.argument)
        elif frame.op == Op.ARM:
            self._arm(answer=True)
        elif frame.tag == 0:
            self._close(f"operation {frame.op} with tag 0: expected a tag from 1 on")
        elif frame.tag in self._calls:
            self._close(f"tag {frame.tag} twice: expected one that no call under way has")
        elif frame.op not in _CALLS:
            self._answer(frame.op, frame.tag, -EOPNOTSUPP)
        elif self._is_closing:
            self._answer(frame.op, frame.tag, -EBADF)
        elif len(self._calls) >= MAX_CALLS and frame.op != Op.CLOSE:
            self.counters["too_many_calls"] += 1
            self._answer(frame.op, frame.tag, -ENOBUFS)
        else:
            self._call(frame)

    def _call(self, frame: Frame) -> None:
        op = Op(frame.op)
        self._calls[frame.tag] = op
        self.counters[op.name.lower()] += 1
        self._is_closing = self._is_closing or op == Op.CLOSE
        count = min(frame.argument, 0x7FFFFFFF) if op == Op.READ else frame.argument
        nonblock = bool(frame.flags & FLAG_NONBLOCK)
        self._perform(DeviceCall(frame.tag, op, self._handle, count, frame.data, nonblock))

    def _hello(self, frame: Frame) -> None:
        if self._greeting or frame.op != Op.HELLO or frame.data[:4] != MAGIC or len(frame.data) < HELLO.size:
            self._close("not a HELLO of this protocol, or something before its answer")
            return
        _, version, options = HELLO.unpack_from(frame.data)
        path = frame.data[HELLO.size :]
        if not frame.tag or not version or not 0 < len(path) <= MAX_PATH or not path.isascii() or b"\0" in path:
            self._answer(Op.HELLO, frame.tag, -EINVAL)
            self._close("HELLO with tag 0, version 0 or no path")
            return
        self._greeting = frame.tag
        self._version, self._options = min(version, VERSION), options & OPTIONS
        self._perform(DeviceCall(frame.tag, Op.HELLO, 0, path=path.decode("ascii")))

    # --- what comes from the device -----------------------------------------------------------------------------------

    def done(self, tag: int, result: int, data: bytes = b"") -> None:
        """Take the end of a call."""
        if self._is_over:
            return
        if tag == WATCH:
            self._watched(result)
        elif tag == MARK:
            self._marks -= 1
            self._marked = self._watching and not self._marks
        elif self._greeting == tag and not self.is_open:
            self._opened(result)
        else:
            self._ended(tag, result, data)

    def _opened(self, handle: int) -> None:
        tag = self._greeting
        if handle < 0:
            self._answer(Op.HELLO, tag, handle)
            self._close("the device was not opened")
            return
        self._handle, self.is_open = handle, True
        self._answer(Op.HELLO, tag, 0, Welcome(self._version, self._options, MAX_DATA, MAX_CALLS).encode())

    def _ended(self, tag: int, result: int, data: bytes) -> None:
        op = self._calls.pop(tag, None)
        if op is None:
            return
        if op == Op.IOCTL and data:
            data = self._for_client(data)
        self._answer(op, tag, result, data)
        if op == Op.CLOSE:
            self._close("closed by the client")
        elif op in (Op.READ, Op.IOCTL):
            self._arm(answer=False)

    def _for_client(self, data: bytes) -> bytes:
        """Turn 32-bit words, of which the results of all ioctls consist, into the client's byte order."""
        wanted = "big" if self._options & OPTION_BIG_ENDIAN else "little"
        if wanted == self._byteorder or len(data) % 4:
            return data
        return b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4))

    # --- READABLE -----------------------------------------------------------------------------------------------------

    def _arm(self, *, answer: bool) -> None:
        """Have the device say when it is readable.

        A POLL that waits, and behind it one that does not: whether the first waited shows in which is answered first.
        One that did not wait and found nothing belongs to a file without a session, which is no news.
        """
        if not self._options & OPTION_EVENTS or self._is_closing:
            return
        if self._watching:
            # An ARM that crossed the answer of a POLL which waits: its READABLE is on its way.
            self._arm_answers = self._arm_answers or (answer and not self._marked)
            return
        self._watching, self._marked, self._arm_answers = True, False, answer
        self._marks += 1
        self._perform(DeviceCall(WATCH, Op.POLL, self._handle))
        self._perform(DeviceCall(MARK, Op.POLL, self._handle, nonblock=True))

    def _watched(self, result: int) -> None:
        is_news = result > 0 or self._marked or self._arm_answers
        self._watching = self._marked = self._arm_answers = False
        if is_news and not self._is_closing:
            self.counters["readable"] += 1
            self._answer(Op.READABLE, 0, max(result, 0))

    # --- to the client ------------------------------------------------------------------------------------------------

    def _answer(self, op: int, tag: int, result: int, data: bytes = b"") -> None:
        if not self._is_over:
            self._send_bytes(Frame(op, tag, result, data).reply())

    def _close(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._end(reason)
