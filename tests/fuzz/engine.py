"""Mutations: bytes that a program wrote, damaged as nobody would by hand.

Everything follows from a :class:`random.Random`: the same seed makes the same inputs, on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

EDGES = (0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 4095, 4096, 32767, 32768, 65535, 65536)
EDGES += tuple((1 << bits) + more for bits in (20, 24, 31, 32, 47, 48, 62, 63, 64) for more in (-1, 0, 1))
LONGEST = 1 << 16
"""An input does not grow beyond that: what is read in blocks and lines needs no more."""
_NUMBER = re.compile(rb"0x[0-9a-fA-F]+|\d+")
_WORD = re.compile(rb"[A-Za-z_]\w*")

Mutation = Callable[[Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def _place(random: Random, data: bytearray) -> int:
    return random.randrange(len(data) + 1)


def _span(random: Random, data: bytearray) -> tuple[int, int]:
    """A piece: short ones more often than long ones."""
    first = _place(random, data)
    longest = min(len(data) - first, 1 << random.randrange(14))
    return first, first + random.randint(0, longest)


def flip_bit(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def set_byte(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def set_number(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    """A field of 1 to 8 bytes, of either order: lengths, counts, types."""
    size = random.choice((1, 2, 2, 4, 4, 4, 8))
    if len(data) < size:
        return
    at = random.randrange(len(data) - size + 1)
    if random.random() < 0.75:
        at -= at % size
    order = "little" if random.random() < 0.6 else "big"
    if random.random() < 0.3:
        number = int.from_bytes(data[at : at + size], order) + random.choice((-8, -4, -2, -1, 1, 2, 4, 8))
    else:
        number = random.choice(EDGES)
    data[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, order)


def cut(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    del data[_place(random, data) :]


def delete(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    first, end = _span(random, data)
    del data[first:end]


def repeat(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    first, end = _span(random, data)
    times = random.choice((1, 1, 1, 2, 5, 40))
    at = _place(random, data)
    data[at:at] = (data[first:end] * times)[:LONGEST]


def move(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    first, end = _span(random, data)
    piece = data[first:end]
    del data[first:end]
    at = _place(random, data)
    data[at:at] = piece


def insert_word(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    word = random.choice(words) if words else random.randbytes(random.randrange(9))
    at = _place(random, data)
    data[at : at + random.choice((0, len(word)))] = word


def splice(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    """A piece of another input."""
    other = bytearray(random.choice(others)) if others else data
    first, end = _span(random, other)
    at, until = _span(random, data)
    data[at : random.choice((at, until))] = other[first:end]


def join(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    """The beginning of this one, the end of another."""
    if others:
        other = random.choice(others)
        del data[_place(random, data) :]
        data += other[random.randrange(len(other) + 1) :]


def change_text_number(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    """A number that is written in digits."""
    found = _near(random, data, _NUMBER)
    if found is not None:
        number = random.choice(EDGES) * random.choice((1, 1, 1, -1, 10**12))
        texts = (b"%d" % number, hex(number).encode(), b"", b"1e999", b"0", b"-1", b"9" * 5000, b"0" + found[0], b"1_0")
        data[found.start() : found.end()] = random.choice(texts)


def change_text_word(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    """A name: another one, or a number."""
    found = _near(random, data, _WORD)
    if found is not None:
        data[found.start() : found.end()] = random.choice(
            [*words[:64], b"", b"7", b"null", b"\xff\xe9", b"\xed\xa0\x80"]
        )


def _near(random: Random, data: bytearray, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
    return pattern.search(bytes(data), _place(random, data))


def change_lines(random: Random, data: bytearray, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    """Whole lines out, twice, or in another order."""
    lines = bytes(data).split(b"\n")
    first = random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            del lines[first : first + 1 + random.randrange(3)]
        case 1:
            lines[first:first] = lines[first : first + 3] * random.choice((1, 2, 30))
        case 2:
            random.shuffle(lines)
        case _:
            lines[first] = random.choice((b"", lines[first] * 2, lines[first][: len(lines[first]) // 2], b"\r"))
    data[:] = b"\n".join(lines)


BINARY: tuple[Mutation, ...] = (
    flip_bit, set_byte, set_number, set_number, set_number, cut, delete, repeat, move, insert_word, splice, join,
)  # fmt: skip
TEXT: tuple[Mutation, ...] = (
    *BINARY, change_text_number, change_text_number, change_text_number, change_text_word, change_text_word,
    change_lines, change_lines, change_lines, change_lines,
)  # fmt: skip


class Mutator:
    """Damages one of ``seeds``, with pieces of the others and with ``words`` that mean something to the reader."""

    def __init__(
        self, seeds: Sequence[bytes], words: Sequence[bytes] = (), mutations: Sequence[Mutation] = BINARY
    ) -> None:
        assert seeds
        self.seeds = seeds
        self.words = words
        self.mutations = mutations

    def make(self, random: Random) -> bytes:
        return self.damage(random, random.choice(self.seeds))

    def damage(self, random: Random, seed: bytes) -> bytes:
        """One change more often than many."""
        data = bytearray(seed)
        for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4, 8))):
            random.choice(self.mutations)(random, data, self.words, self.seeds)
            del data[LONGEST:]
        return bytes(data)
