"""Migration of a serial card: the stream of mtty, and what it lacks.

Version 1.0 is the stream of the kernel's mtty and is accepted; version 1.1 is what this card sends: the same, and
behind it what mtty has no place for.  Little-endian::

    header 24      0 magic u64 | 8 major u32 = 1 | 12 minor u32 = 0 or 1 | 16 ports u32 | 20 flags u32 = 0
    port 36, each  0 registers 8 | 8 RX FIFO 16 | 24 head | 25 tail | 26 count | 27 DLAB | 28 overrun | 29 pad
                   30 divisor u16 | 32 FCR | 33 depth (1, 16) | 34 level | 35 pad
    then, with 1.1:
    port 24, each  0 pending (1 THR empty, 2 character timeout) | 1 count | 2 TX FIFO 16 | 18 zero 6
    card 256       configuration space
    lines, each    0 inward u16 | 2 outward u16, both at most 16384 | 4 the bytes of both, which waited in the line

Of the registers IER, LCR, MCR and SCR count, and with 1.1 MSR; ``tail`` is the next byte to be read.  The header goes
out while the card runs (PRE_COPY), the rest when it stands: 344 bytes in all with one port, 408 with two, and what
waits in the lines.  What a line is connected to is no part of it: the card gets new lines where it comes to.

Errors: EFAULT the header is of something else; ENOMEM more bytes than the stream has; EINVAL too few, or values that
no port has.  Nothing is taken over before the whole stream has been checked.  EBUSY: more waits in a line than fits,
which takes several moves during which nobody reads; the card stays until somebody does.

Spec: mdev 4.8, 8.1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from pvnet.mdev.errors import MdevError
from pvnet.mdev.names import MigrationFlag
from pvnet.mdev.pci import CONFIG_BYTES
from pvnet.mdev.uart_registers import CONNECTED, DLAB, FIFO_BYTES, LEVELS, Fcr, Register, UartState
from pvnet.papr.errno import EBUSY, EFAULT, EINVAL, ENOMEM

MAGIC: Final = 0x7E9D09898C3E2C4E
MAJOR: Final = 1
MINOR: Final = 1
HEADER: Final = struct.Struct("<QIIII")
PORT: Final = struct.Struct("<8s16sBBBBBxHBBBx")
EXTENSION: Final = struct.Struct("<BB16s6s")
LINE: Final = struct.Struct("<HH")
LINE_MAX: Final = 1 << 14
"""Most bytes of one direction of a line: what it may keep itself, and what had come along before."""
Waiting: TypeAlias = tuple[bytes, bytes]
"""What waited in a line, inward and outward."""
_THR_EMPTY: Final = 1
_TIMED_OUT: Final = 2


def encode_header(ports: int) -> bytes:
    """Return what can be told of a card that runs."""
    return HEADER.pack(MAGIC, MAJOR, MINOR, ports, 0)


def encode_body(states: Sequence[UartState], config: bytes, lines: Sequence[Waiting]) -> bytes:
    """Return everything behind the header.

    :raises MdevError: EBUSY, more waits in a line than fits.
    """
    for port, (came, left) in enumerate(lines):
        if max(len(came), len(left)) > LINE_MAX:
            raise MdevError(EBUSY, f"port {port}: {len(came)} bytes wait to be read, {len(left)} to be sent")
    tails = [LINE.pack(len(came), len(left)) + came + left for came, left in lines]
    return b"".join([*map(_encode_port, states), *map(_encode_extension, states), config, *tails])


def body_bytes(ports: int, minor: int) -> int:
    """Length of everything behind the header, when nothing waits in the lines."""
    return ports * PORT.size + (ports * (EXTENSION.size + LINE.size) + CONFIG_BYTES if minor else 0)


def stream_bytes(stream: bytes | bytearray, ports: int, minor: int) -> int:
    """Length of a whole stream, as far as its beginning, the header and more, tells it; else the least.

    :raises MdevError: EINVAL, no line can be so.
    """
    total = HEADER.size + body_bytes(ports, minor)
    if minor:
        at = total - ports * LINE.size
        for _ in range(ports):
            if len(stream) < at + LINE.size:
                break
            came, left = LINE.unpack_from(stream, at)
            if max(came, left) > LINE_MAX:
                raise MdevError(EINVAL, f"{came} and {left} bytes in a line")
            at += LINE.size + came + left
            total += came + left
    return total


def decode_header(header: bytes, ports: int) -> int:
    """Return the minor version.

    :raises MdevError: EFAULT, not for a card with so many ports.
    """
    magic, major, minor, found, flags = HEADER.unpack(header)
    if (magic, major, found, flags) != (MAGIC, MAJOR, ports, 0) or minor > MINOR:
        raise MdevError(EFAULT, f"a stream {magic:#x} {major}.{minor} of {found} ports, flags {flags:#x}")
    return int(minor)


def decode_body(body: bytes, ports: int, minor: int) -> tuple[list[UartState], bytes | None, list[Waiting]]:
    """Return the ports and, from 1.1 on, the configuration space and what waited in the lines.

    ``body`` is as long as :func:`stream_bytes` says.

    :raises MdevError: EINVAL, no port can be so.
    """
    split = ports * PORT.size
    records = PORT.iter_unpack(body[:split])
    if not minor:
        return [_decode_port(record, None) for record in records], None, [(b"", b"")] * ports
    end = split + ports * EXTENSION.size
    extensions = EXTENSION.iter_unpack(body[split:end])
    states = [_decode_port(*pair) for pair in zip(records, extensions, strict=True)]
    return states, body[end : end + CONFIG_BYTES], _decode_lines(body[end + CONFIG_BYTES :], ports)


def _decode_lines(rest: bytes, ports: int) -> list[Waiting]:
    lines: list[Waiting] = []
    for _ in range(ports):
        came, left = LINE.unpack_from(rest)
        at = LINE.size + came
        lines.append((rest[LINE.size : at], rest[at : at + left]))
        rest = rest[at + left :]
    return lines


def _encode_port(state: UartState) -> bytes:
    registers = bytes((0, state.ier, 0, state.lcr, state.mcr, 0, state.modem, state.scr))
    count = len(state.rx)
    on = state.fcr & Fcr.ENABLE
    return PORT.pack(
        registers,
        state.rx,
        count % FIFO_BYTES,
        0,
        count,
        state.lcr >> 7,
        state.overrun,
        state.divisor,
        state.fcr,
        FIFO_BYTES if on else 1,
        LEVELS[state.fcr >> 6] if on else 1,
    )


def _encode_extension(state: UartState) -> bytes:
    pending = state.thr_empty_pending * _THR_EMPTY | state.timed_out * _TIMED_OUT
    return EXTENSION.pack(pending, len(state.tx), state.tx, b"")


_Port = tuple[bytes, bytes, int, int, int, int, int, int, int, int, int]
_Extension = tuple[int, int, bytes, bytes]


def _decode_port(record: _Port, extension: _Extension | None) -> UartState:
    registers, fifo, head, tail, count, dlab, overrun, divisor, fcr, depth, level = record
    if count > FIFO_BYTES or tail >= FIFO_BYTES or (tail + count) % FIFO_BYTES != head:
        raise MdevError(EINVAL, f"a FIFO of {count} bytes from {tail} to {head}")
    if depth not in (1, FIFO_BYTES) or level not in LEVELS:
        raise MdevError(EINVAL, f"a FIFO of depth {depth}, level {level}")
    lcr = registers[Register.LCR]
    if bool(dlab) is not bool(lcr & DLAB):
        raise MdevError(EINVAL, f"DLAB {dlab} with LCR {lcr:#04x}")
    # The port of mtty has FIFOs before anybody switched them on, and says that THR is empty as long as it is.
    pending, waiting, tx, reserved = extension if extension is not None else (_THR_EMPTY, 0, b"", b"")
    if pending & ~(_THR_EMPTY | _TIMED_OUT) or waiting > FIFO_BYTES or any(reserved):
        raise MdevError(EINVAL, f"pending {pending:#x}, {waiting} bytes in TX, {reserved.hex()}")
    return UartState(
        ier=registers[Register.IER],
        fcr=fcr & ~Fcr.ENABLE if depth == 1 else fcr | Fcr.ENABLE,
        lcr=lcr,
        mcr=registers[Register.MCR],
        scr=registers[Register.SCR],
        divisor=divisor,
        rx=(fifo + fifo)[tail : tail + count],
        tx=tx[:waiting],
        overrun=bool(overrun),
        thr_empty_pending=bool(pending & _THR_EMPTY),
        timed_out=bool(pending & _TIMED_OUT),
        modem=registers[Register.MSR] if extension is not None else CONNECTED,
    )


class Migrated(Protocol):
    """A card, as its migration sees it."""

    def save(self) -> tuple[Sequence[UartState], bytes, Sequence[Waiting]]:
        """Return the state of its ports, its configuration space, and what waits in its lines."""
        ...

    def load(self, states: Sequence[UartState], config: bytes | None, lines: Sequence[Waiting]) -> None:
        """Take them over; None: leave the configuration space."""
        ...


class SerialMigration:
    """:class:`~pvnet.mdev.device.MigrationOps` of a card with ``ports`` ports."""

    def __init__(self, card: Migrated, ports: int) -> None:
        self.flags = int(MigrationFlag.STOP_COPY | MigrationFlag.PRE_COPY)
        self._card = card
        self._ports = ports
        self._out = b""
        self._whole = True
        self._in = bytearray()
        self._minor: int | None = None
        self._error: MdevError | None = None

    def save_begin(self) -> None:
        """A stream begins."""
        self._out = encode_header(self._ports)
        self._whole = False

    def precopy(self, limit: int) -> bytes:
        """Return the header."""
        return self._next(limit)

    def save(self, limit: int) -> bytes:
        """Return the rest."""
        if not self._whole:
            self._out += encode_body(*self._card.save())
            self._whole = True
        return self._next(limit)

    def remaining(self) -> int:
        """Exactly, but for what waits in the lines."""
        return len(self._out) + (0 if self._whole else body_bytes(self._ports, MINOR))

    def _next(self, limit: int) -> bytes:
        piece, self._out = self._out[:limit], self._out[limit:]
        return piece

    def restore_begin(self) -> None:
        """A stream is coming."""
        self._in.clear()
        self._minor = self._error = None

    def restore(self, data: bytes) -> None:
        """Take a piece.

        :raises MdevError: EFAULT wrong header, ENOMEM too long, EINVAL no such lines; from then on every time.
        """
        if self._error is not None:
            raise self._error
        self._in += data
        try:
            if self._minor is None and len(self._in) >= HEADER.size:
                self._minor = decode_header(bytes(self._in[: HEADER.size]), self._ports)
            if self._minor is not None and len(self._in) > stream_bytes(self._in, self._ports, self._minor):
                raise MdevError(ENOMEM, f"a stream of {len(self._in)} bytes or more")
        except MdevError as error:
            self._in.clear()
            self._error = error
            raise

    def restore_end(self) -> None:
        """Check it all, then let the card have it.

        :raises MdevError: EINVAL too short or no such state.
        """
        if self._error is not None:
            raise self._error
        minor, body = self._minor, bytes(self._in[HEADER.size :])
        if minor is None or len(self._in) < stream_bytes(self._in, self._ports, minor):
            raise MdevError(EINVAL, f"a stream of {len(self._in)} bytes")
        states, config, lines = decode_body(body, self._ports, minor)
        self.restore_begin()
        self._card.load(states, config, lines)
