"""``pvnet chart``: a capture as a sequence diagram, as a page to look through, as a plot."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from pvnet.capture.chart import Chart, ChartOptions, Collector, headline
from pvnet.capture.chart_html import MAX_EVENTS, html
from pvnet.capture.chart_plot import FORMATS, PlotKind, plot
from pvnet.capture.chart_series import Series
from pvnet.capture.chart_svg import MAX_ARROWS, svg
from pvnet.capture.decode import decode
from pvnet.capture.filter import Filter
from pvnet.capture.importers import Problems, open_any, sniff
from pvnet.capture.model import Record
from pvnet.capture.pvcap import open_capture
from pvnet.capture.violations import Violations
from pvnet.cli.run import say
from pvnet.core.errors import ConfigError, PvnetError

_SHOWN_PROBLEMS: Final = 20


def chart(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A capture or a log; - is the standard input.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="A .svg or .html file; with --plot .svg or .png.")
    ],
    expression: Annotated[
        str, typer.Option("--filter", metavar="EXPR", help="Only these messages; see: pvnet show --help.")
    ] = "",
    start: Annotated[
        float | None, typer.Option("--from", metavar="SECONDS", help="Not what came earlier after the first record.")
    ] = None,
    end: Annotated[
        float | None, typer.Option("--to", metavar="SECONDS", help="Not what came later after the first record.")
    ] = None,
    nodes: Annotated[
        str,
        typer.Option(
            "--nodes", metavar="A,B,...", help="Only messages between these, in this order; all messages of one alone."
        ),
    ] = "",
    most: Annotated[
        int | None,
        typer.Option(
            "--max",
            min=1,
            max=MAX_EVENTS * 4,
            metavar="N",
            help=f"Most arrows of an .svg (default: {MAX_ARROWS}), most messages of an .html ({MAX_EVENTS}).",
        ),
    ] = None,
    fold: Annotated[bool, typer.Option("--fold/--no-fold", help="Draw what repeats once, with its count.")] = True,
    kind: Annotated[PlotKind | None, typer.Option("--plot", help="A plot over time instead of a diagram.")] = None,
    title: Annotated[str, typer.Option("--title", help="Title; default: the file's name.")] = "",
) -> None:
    """Draw a capture.

    OUT.svg is a sequence diagram: a lifeline per node, an arrow per message, replies dashed and with their latency,
    bars where a call is under way, violations marked.  OUT.html is the same as a page with search, zoom, choice of
    channels and time, and the fields and bytes of each message; a single file, which needs no network.

    --plot latency and --plot throughput need matplotlib: pip install 'pvnet[plot]'.

    Calls are paired with their replies, and violations found, over the whole file, whatever the options leave out.
    Exit 0: drawn; 1: the file is damaged (what could be read was drawn); 2: it cannot be read at all, or the options
    are wrong.
    """
    form = output.suffix.lower().removeprefix(".")
    forms = FORMATS if kind is not None else ("svg", "html")
    if form not in forms:
        raise ConfigError(f"--output {output!s:.100}: expected a name that ends with .{' or .'.join(forms)}")
    names = tuple(dict.fromkeys(name for name in (part.strip() for part in nodes.split(",")) if name))
    keep = {} if form == "svg" else {"keep": most or MAX_EVENTS}
    options = ChartOptions(Filter.parse(expression), start, end, names, fold, details=form == "html", **keep)
    name = title or ("standard input" if str(file) == "-" else file.name)
    problems = Problems()
    if kind is not None:
        if most is not None or nodes:
            raise ConfigError("--plot has no use for --max and --nodes")
        series = _series(file, options, problems)
        write_whole(output, plot(series, kind, form, name))
        said = f"{series.messages} messages, {series.latency.all.count} calls with replies"
    else:
        drawn = _collected(file, options, problems, name)
        text = html(drawn) if form == "html" else svg(drawn, most or MAX_ARROWS)
        write_whole(output, text.encode("utf-8", "backslashreplace"))
        said = ", ".join((headline(drawn), *drawn.notes))
    say(f"{output}: {said}")
    if problems.texts:
        sys.stdout.flush()
        raise PvnetError("\npvnet: ".join(problems.texts[:_SHOWN_PROBLEMS]))


def _collected(file: Path, options: ChartOptions, problems: Problems, title: str) -> Chart:
    collector = Collector(options)
    dropped: dict[str, int] = {}
    with opened(file, problems, dropped) as records:
        for record in records:
            collector.feed(record)
    drawn = collector.chart(title)
    if lost := sum(dropped.values()):
        drawn.notes.append(f"{lost} records are missing: the recorder could not take them")
    return drawn


def _series(file: Path, options: ChartOptions, problems: Problems) -> Series:
    series, watch = Series(), Violations()
    with opened(file, problems, {}) as records:
        for record in records:
            decoded = decode(record)
            watch.feed(decoded)
            if series.start_ns is None:
                series.start_ns = options.wanted.start_ns = record.time_ns
            if options.within(record.time_ns, series.start_ns) and options.wanted.matches(decoded):
                series.feed(decoded, watch.matched)
    return series


@contextmanager
def opened(file: Path, problems: Problems, dropped: dict[str, int]) -> Iterator[Iterator[Record]]:
    """Open a file of any format; ``dropped`` is filled when its records have been read."""
    if str(file) == "-":
        with tempfile.NamedTemporaryFile(prefix="pvnet-chart-") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
            try:
                with opened(Path(copy.name), problems, dropped) as records:
                    yield records
            except ConfigError as error:
                raise ConfigError(str(error).replace(copy.name, "standard input")) from None
            finally:
                problems.texts = [text.replace(copy.name, "standard input") for text in problems.texts]
        return
    try:
        is_capture = sniff(file) == "pcapng"
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    except ValueError:
        raise ConfigError(f"{file!s:.100}: not a path") from None
    if is_capture:
        with open_capture(file) as reader:
            yield iter(reader)
            dropped.update(reader.info.dropped)
            for text in reader.problems:
                problems.note(f"{file}: {text}")
    else:
        yield iter(open_any(file, problems))


def write_whole(output: Path, data: bytes) -> None:
    """Write the whole file or none of it."""
    try:
        if output.exists() and not output.is_file():  # a pipe, /dev/null
            output.write_bytes(data)
            return
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name[:50]}.", delete=False) as part:
            try:
                part.write(data)
                part.flush()
                umask = os.umask(0)
                os.umask(umask)
                os.fchmod(part.fileno(), 0o666 & ~umask)
                Path(part.name).replace(output)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"--output {output!s:.100}: not a path") from None
