"""Plots of a capture with matplotlib, which is an extra: latencies of calls over time, throughput per channel.

The numbers are those of :mod:`pvnet.capture.chart_series`; this only draws them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from pvnet.capture.chart_series import PERCENTILES, Series
from pvnet.capture.chart_text import CHANNELS, fit
from pvnet.capture.decode_fields import printable
from pvnet.capture.summary import duration
from pvnet.core.errors import UnavailableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: Final = ("svg", "png")
SHOWN_CALLS: Final = 8
_COLOURS: Final = tuple(channel.colour for channel in CHANNELS.values())
_MARKERS: Final = "os^vDPX*h"


class PlotKind(StrEnum):
    """What is plotted over time."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


def plot(series: Series, kind: PlotKind, format_: str, title: str = "") -> bytes:
    """Return the plot as a file of that format.

    :raises UnavailableError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError(f"plots need matplotlib ({error}): pip install 'pvnet[plot]'") from None
    from io import BytesIO

    settings: Any = {
        "text.parse_math": False,  # a name with two dollars is no formula
        "svg.hashsalt": "pvnet",
        "font.size": 9.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(10, 6), layout="constrained")
        if kind is PlotKind.LATENCY:
            _latency(figure, series)
        else:
            _throughput(figure, series)
        figure.suptitle(_plain(title or "Capture", 100), x=0.01, ha="left", fontweight="bold")
        out = BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if format_ == "svg" else {"Software": None}
        figure.savefig(out, format=format_, dpi=120, metadata=metadata)
        return out.getvalue()


def _plain(text: str, room: int) -> str:
    """Only what every font has: a name may hold anything, and a legend hides what begins with an underscore."""
    text = fit(printable(text), room).encode("ascii", "backslashreplace").decode().replace("\\u2026", "...")
    return f" {text}" if text.startswith("_") else text


def _latency(figure: Figure, series: Series) -> None:
    calls = sorted(series.latency.calls.items(), key=lambda item: -item[1].total.count)
    points, over_time = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    if not calls:
        _nothing(figure, "no call with a reply in this capture")
        return
    rest = [point for _name, call in calls[SHOWN_CALLS:] for point in call.points]
    rows = [(name, call.points) for name, call in calls[:SHOWN_CALLS]]
    for number, (name, found) in enumerate([*rows, *([("others", rest)] if rest else [])]):
        label = f"{_plain(name, 34)}: {len(found)}"
        if name in series.latency.calls:
            total = series.latency.calls[name].total
            shown = (duration(total.percentile(percent)) for percent in PERCENTILES)
            label = f"{_plain(name, 34)}: {total.count}; {' / '.join(shown)}"
        points.scatter(
            [at / 1e9 for at, _took in found], [max(took, 1) for _at, took in found], s=12, alpha=0.7,
            color=_COLOURS[number % len(_COLOURS)], marker=_MARKERS[number % len(_MARKERS)], linewidths=0, label=label,
        )  # fmt: skip
    points.set_yscale("log")
    points.set_ylabel("latency")
    title = "call: replies; p50 / p90 / p99"
    points.legend(title=title, fontsize=8, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    windows = series.latency.over_time()
    for percent, style, colour in zip(PERCENTILES, ("-", "--", ":"), _COLOURS, strict=False):
        times, values = [at / 1e9 for at, _row in windows], [max(row[percent], 1) for _at, row in windows]
        over_time.plot(times, values, style, color=colour, marker=".", label=f"p{percent:.0f}")
    over_time.set_yscale("log")
    over_time.set_ylabel("all calls")
    for axis in (points, over_time):
        axis.yaxis.set_major_formatter(lambda value, _place: duration(value))
    over_time.set_xlabel("time (s)")
    over_time.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _throughput(figure: Figure, series: Series) -> None:
    bins = series.throughput
    axes = figure.subplots(2, 1, sharex=True)
    if not bins.length:
        _nothing(figure, "no record with a time in this capture")
        return
    edges = [number * bins.width_ns / 1e9 for number in range(bins.length + 1)]
    keys = [key for key in CHANNELS if key in bins.rows]
    for column, (axis, unit) in enumerate(zip(axes, ("messages/s", "bytes/s"), strict=True)):
        for number, key in enumerate(keys):
            axis.stairs(
                bins.rate(key, column), edges, color=CHANNELS[key].colour, label=CHANNELS[key].name, linewidth=1.4,
                linestyle=("-", "--", ":", "-.")[number % 4],
            )  # fmt: skip
        axis.set_ylabel(f"{unit}, per {duration(bins.width_ns)}")
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(lambda value, _place: _amount(value))
    axes[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes[1].set_xlabel("time (s)")


def _amount(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def _nothing(figure: Figure, text: str) -> None:
    figure.clear()
    figure.text(0.5, 0.5, text, ha="center")
