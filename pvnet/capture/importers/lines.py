"""Lines of a text that anybody may have written: streamed, bounded, and complained about without stopping.

A log is not under our control: it may be Latin-1, have a line of a gigabyte, end in the middle of a line, or use CR LF.
None of that ends an import: what cannot be used is skipped, counted, and named with file and line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

TEXT_LINE_BYTES: Final = 4096
"""Longest line of a log."""
KEPT_PROBLEMS: Final = 100
_CHUNK: Final = 1 << 16


@dataclass(slots=True)
class Problems:
    """What was wrong with a file: all are counted, the first :data:`KEPT_PROBLEMS` are kept as ``FILE:LINE: what``."""

    path: str = ""
    count: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, line: int, what: str) -> None:
        """Count a problem of one line."""
        self.note(f"{self.path}:{line}: {what}")

    def note(self, text: str) -> None:
        """Count a problem whose text says where it is."""
        self.count += 1
        if len(self.texts) < KEPT_PROBLEMS:
            self.texts.append(text)


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line without its end; ``is_last_half``: the file ends before the line does."""

    number: int
    offset: int
    text: str
    is_last_half: bool = False


def read_lines(stream: BinaryIO, problems: Problems, limit: int = TEXT_LINE_BYTES) -> Iterator[TextLine]:
    """Yield the lines that can be used; a longer one than ``limit`` bytes is a problem, and skipped.

    Bytes that are not UTF-8 are replaced, which is a problem too.  Memory is one line.
    """
    number, offset = 0, 0
    while raw := stream.readline(limit + 2):
        number += 1
        start, offset = offset, offset + len(raw)
        is_whole = raw.endswith(b"\n")
        line = raw.rstrip(b"\r\n") if is_whole else raw
        if len(line) > limit:
            while not is_whole and (rest := stream.readline(_CHUNK)):
                offset += len(rest)
                is_whole = rest.endswith(b"\n")
            problems.add(number, f"line of {offset - start} bytes: expected at most {limit}: skipped")
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            problems.add(number, f"not UTF-8 at byte {error.start + 1} of the line: replaced")
            text = line.decode(errors="replace")
        yield TextLine(number, start, text, is_last_half=not is_whole)
