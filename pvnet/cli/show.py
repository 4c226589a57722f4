"""``pvnet show``: a capture, one readable line per message."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from pvnet.capture.decode import Decoded, decode
from pvnet.capture.filter import Filter
from pvnet.capture.importers import Problems, open_any, sniff
from pvnet.capture.model import Record
from pvnet.capture.pairs import Matched
from pvnet.capture.pvcap import CaptureReader, open_capture
from pvnet.capture.show_text import LineWriter, TimeColumn, hex_lines, to_json, tree_lines
from pvnet.capture.summary import Summary
from pvnet.capture.violations import Violations
from pvnet.cli.run import JsonOption, say, say_json
from pvnet.core.errors import ConfigError, PvnetError, WireError

if TYPE_CHECKING:
    from io import BufferedReader

_LINK: Final = frozenset({"link_ack", "link_reset"})
_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A capture or a log; - is the standard input.")],
    expression: Annotated[
        str, typer.Option("--filter", metavar="EXPR", help='Only these, such as "vmc.type == OPEN and node == lpar1".')
    ] = "",
    start: Annotated[
        float | None, typer.Option("--from", metavar="SECONDS", help="Not what came earlier after the first record.")
    ] = None,
    end: Annotated[
        float | None, typer.Option("--to", metavar="SECONDS", help="Not what came later after the first record.")
    ] = None,
    no_link: Annotated[bool, typer.Option("--no-link", help="Not the link's own messages.")] = False,
    column: Annotated[
        TimeColumn, typer.Option("--time", help="Since the first record, since the line before, or of the clock (UTC).")
    ] = TimeColumn.RELATIVE,
    summary: Annotated[bool, typer.Option("--summary", help="Counts, latencies, errors instead of lines.")] = False,
    fields: Annotated[bool, typer.Option("--fields", help="All fields below each line.")] = False,
    with_hex: Annotated[bool, typer.Option("--hex", help="The bytes below each line.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a capture: number, time, source > destination, kind, what it says; latency at replies, ! what is wrong.

    Reads pvnet's captures, pvnet-hcall-trace/1, pvnet-vmc-transcript/1, and the logs that "pvnet convert" takes.  Calls
    are paired with their replies, and violations found, over the whole file, whatever the filter shows.

    A filter compares fields (the names that Wireshark shows, without "pvnet."): ==, !=, <, <=, >, >=, ~ (contains),
    & (has one of these bits), in {A, B}; and, or, not, parentheses.  A layer, field or kind alone says that it is
    there: "crq and not link".  Beside the fields: number, time, kind, source, destination, node, channel, interface,
    direction, length, call, reply, trace, comment, summary, problem.

    --json prints one object a line.  Exit 0: shown; 1: the file is damaged (what could be read was shown); 2: it cannot
    be read at all, or the filter is wrong.
    """
    wanted = Filter.parse(expression)
    shower = _Shower(LineWriter(column), fields=fields, with_hex=with_hex, as_json=as_json)
    totals, watch = Summary(), Violations()
    problems = Problems()
    with _opened(file, problems) as (records, reader):
        first: int | None = None
        for record in records:
            decoded = decode(record)
            wrong = watch.feed(decoded)
            if first is None:
                first = record.time_ns
                shower.lines.start_ns = wanted.start_ns = first
            if not _is_within(record, first, start, end) or (no_link and decoded.kind in _LINK):
                continue
            if not wanted.matches(decoded):
                continue
            if summary:
                totals.feed(decoded, watch.matched, wrong)
            else:
                shower.show(decoded, watch.matched, wrong)
        if reader is not None:
            totals.dropped = reader.info.dropped
            problems.texts += reader.problems
    if summary:
        totals.unanswered = sum(1 for call in watch.pairs.unanswered() if wanted.matches(call))
        if as_json:
            say_json(totals.to_json())
        else:
            say("\n".join(totals.lines()))
    if problems.texts:
        sys.stdout.flush()
        raise PvnetError("\npvnet: ".join(problems.texts[:20]))


def _is_within(record: Record, first: int | None, start: float | None, end: float | None) -> bool:
    if record.time_ns is None or first is None:
        return start is None and end is None
    seconds = (record.time_ns - first) / 1e9
    return (start is None or seconds >= start) and (end is None or seconds <= end)


class _Shower:
    def __init__(self, lines: LineWriter, *, fields: bool, with_hex: bool, as_json: bool) -> None:
        self.lines = lines
        self._fields = fields
        self._hex = with_hex
        self._as_json = as_json

    def show(self, decoded: Decoded, matched: Matched | None, wrong: list[str]) -> None:
        if self._as_json:
            values = to_json(decoded, matched, wrong)
            if self._hex:
                values["data"] = decoded.record.data.hex()
            say_json(values)
            return
        say(self.lines.line(decoded, matched, wrong))
        if self._fields:
            for line in tree_lines(decoded):
                say(line)
        if self._hex:
            for line in hex_lines(decoded.record.data):
                say(line)


@contextmanager
def _opened(file: Path, problems: Problems) -> Iterator[tuple[Iterator[Record], CaptureReader | None]]:
    """Open a file of any format; a capture on the standard input is shown while it comes."""
    if str(file) != "-":
        try:
            is_capture = sniff(file) == "pcapng"
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror or error}") from None
        except ValueError:
            raise ConfigError(f"{file!s:.100}: not a path") from None
        if is_capture:
            with open_capture(file) as reader:
                yield reader, reader
        else:
            yield iter(open_any(file, problems)), None
        return
    stream = cast("BufferedReader", sys.stdin.buffer)
    if stream.peek(len(_PCAPNG))[: len(_PCAPNG)] == _PCAPNG:
        try:
            reader = CaptureReader(stream, "standard input")
        except WireError as error:
            raise ConfigError(f"standard input: {error}") from None
        yield reader, reader
        return
    with tempfile.NamedTemporaryFile(prefix="pvnet-show-") as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        try:
            yield iter(open_any(Path(copy.name), problems)), None
        except ConfigError as error:
            raise ConfigError(str(error).replace(copy.name, "standard input")) from None
        finally:
            problems.texts = [text.replace(copy.name, "standard input") for text in problems.texts]
