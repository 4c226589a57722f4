"""``pvnet chart``: files, options, what it says when something is wrong; plots; a real lab."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from chart_rig import NASTY, hostile, noisy, trips

from pvnet.capture.chart import ChartOptions, collect
from pvnet.capture.chart_layout import lay_out
from pvnet.capture.chart_plot import PlotKind, plot
from pvnet.capture.chart_series import Series
from pvnet.capture.decode import decode
from pvnet.capture.importers import Problems, open_any
from pvnet.capture.model import CaptureInfo, Interface, Record
from pvnet.capture.pairs import Pairs
from pvnet.capture.pvcap import CaptureWriter
from pvnet.cli.chart import opened, write_whole
from pvnet.cli.main import run
from pvnet.client import Lab
from pvnet.client.recorder import Recorder
from pvnet.core.errors import ConfigError
from pvnet.runtime.topology import default_topology


def written(path: Path, records: list[Record]) -> Path:
    with path.open("wb") as out:
        writer = CaptureWriter(out.write, CaptureInfo())
        for each in records:
            writer.record(Interface(each.interface.name[:20]), each.time_ns, each.data)
    return path


def series_of(records: list[Record]) -> Series:
    series, pairs = Series(), Pairs()
    for each in records:
        decoded = decode(each)
        series.feed(decoded, pairs.feed(decoded))
    return series


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return written(tmp_path / "in.pcapng", trips(30))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "a.svg"),
        ([], "a.HTML"),
        (["--no-fold", "--max", "7"], "a.svg"),
        (["--max", "7"], "a.html"),
        (["--plot", "latency"], "a.png"),
        (["--plot", "throughput", "--from", "0"], "a.svg"),
        (["--filter", "hcall", "--nodes", "hv,lpar1", "--to", "0.00001", "--title", "x"], "a.svg"),
    ],
)
def test_a_file_is_written(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], name: str
) -> None:
    out = tmp_path / name
    assert run(["chart", str(capture), "-o", str(out), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: ")
    assert printed.err == ""
    data = out.read_bytes()
    assert data.startswith((b"<?xml", b"<!DOCTYPE html>", b"\x89PNG"))
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["in.pcapng", name])


def _umask() -> int:
    import os

    now = os.umask(0o22)
    os.umask(now)
    return now


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["IN", "-o", "a.jpg"], "expected a name that ends with .svg or .html"),
        (["IN", "-o", "a.html", "--plot", "latency"], "ends with .svg or .png"),
        (["IN", "-o", "DIR/none/a.svg"], "No such file or directory"),
        (["IN", "-o", "DIR.svg"], "Is a directory"),
        (["DIR/none", "-o", "a.svg"], "No such file or directory"),
        (["IN", "-o", "a.svg", "--filter", "nothing =="], "filter: position"),
        (["IN", "-o", "a.svg", "--plot", "latency", "--max", "3"], "no use for --max"),
        (["IN", "-o", "a.svg", "--max", "0"], "--max"),
        (["IN"], "--output"),
    ],
)
def test_wrong_options_are_a_line(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR.svg").mkdir()
    words = [word.replace("IN", str(capture)).replace("DIR/", f"{tmp_path}/") for word in arguments]
    assert run(["chart", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["DIR.svg", "in.pcapng"]


def test_what_is_no_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a path"), opened(Path("a\0b"), Problems(), {}):
        pass
    with pytest.raises(ConfigError, match="not a path"):
        write_whole(Path("a\0b"), b"")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a.svg", None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_drawn_as_far_as_it_goes(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture.write_bytes(capture.read_bytes()[:-30])
    out = tmp_path / "a.svg"
    assert run(["chart", str(capture), "-o", str(out)]) == 1
    assert str(capture) in capsys.readouterr().err
    assert ET.fromstring(out.read_bytes()) is not None


def test_lost_records_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pcapng"
    with path.open("wb") as out:
        writer = CaptureWriter(out.write, CaptureInfo())
        for each in trips(2):
            writer.record(each.interface, each.time_ns, each.data)
        writer.statistics({"hv/reply": 2}, {"hv/reply": 5})
    assert run(["chart", str(path), "-o", str(tmp_path / "a.svg")]) == 0
    assert "5 records are missing" in capsys.readouterr().out
    assert b"5 records are missing" in (tmp_path / "a.svg").read_bytes()


def test_standard_input_and_a_pipe(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(capture.read_bytes())))
    assert run(["chart", "-", "-o", str(tmp_path / "a.svg")]) == 0
    assert b"standard input" in (tmp_path / "a.svg").read_bytes()
    (tmp_path / "null.svg").symlink_to("/dev/null")
    assert run(["chart", str(capture), "-o", str(tmp_path / "null.svg")]) == 0
    assert (tmp_path / "null.svg").is_symlink()


def test_standard_input_that_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\1\2\3")))
    assert run(["chart", "-", "-o", str(tmp_path / "a.svg")]) == 2
    assert "standard input" in capsys.readouterr().err


def test_a_log_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    meta = {"meta": {"schema": "pvnet-hcall-trace/1", "profile": "qemu", "source": "test"}}
    path.write_text(json.dumps(meta) + "\n" + json.dumps({"n": 1, "t": 0.5, "mark": "begin"}) + "\n")
    assert run(["chart", str(path), "-o", str(tmp_path / "a.svg")]) == 0
    assert b"begin" in (tmp_path / "a.svg").read_bytes()


def test_without_matplotlib_it_says_how_to_get_it(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["chart", str(capture), "-o", str(tmp_path / "a.png"), "--plot", "latency"]) == 2
    assert "pip install 'pvnet[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("kind", PlotKind)
@pytest.mark.parametrize("form", ["svg", "png"])
def test_plots(kind: PlotKind, form: str) -> None:
    for records in ([], hostile(), noisy(300)):
        data = plot(series_of(records), kind, form, NASTY)
        assert data == plot(series_of(records), kind, form, NASTY)
        assert data.startswith(b"<?xml" if form == "svg" else b"\x89PNG")
        if form == "svg":
            assert ET.fromstring(data) is not None


def test_a_plot_of_many_calls_and_odd_names() -> None:
    series = Series()
    series.feed(decode(trips(1)[0]))
    for number in range(30):
        series.latency.add(f"_{number} $x_{{$ 日本", number, 10**number)
    assert plot(series, PlotKind.LATENCY, "svg")
    series.throughput.add("hcall", 0, 10**12)
    assert plot(series, PlotKind.THROUGHPUT, "png")


@pytest.mark.slow
async def test_a_real_lab_is_drawn(tmp_path: Path) -> None:
    made = default_topology("chart")
    topology = made.model_copy(update={"lab": made.lab.model_copy(update={"ready_timeout_s": 60.0})})
    file = tmp_path / "lab.pcapng"

    async def recorded() -> None:
        async with Lab(topology, base=tmp_path / "labs") as lab:
            with file.open("wb") as out:
                writer = CaptureWriter(out.write, CaptureInfo())
                async with Recorder(lab, writer), lab.vmc_session("drawn") as session:
                    await session.router_open()
                    for number in range(30):
                        assert await session.echo(bytes([number]) * 50)
                    await session.router_close()

    await asyncio.wait_for(recorded(), 100)
    records = list(open_any(file))
    chart = collect(records)
    assert {"mp", "hypervisor"} <= set(chart.nodes)
    assert abs(chart.nodes.index("mp") - chart.nodes.index("hypervisor")) == 1
    assert any(event.latency_ns is not None for event in chart.events)
    assert chart.folds, "30 echoes repeat"
    folded, flat = lay_out(chart, 10**6), lay_out(collect(records, ChartOptions(fold=False)), 10**6)
    assert len(folded.arrows) < len(flat.arrows) / 2
    assert folded.bars
    for name in ("a.svg", "a.html"):
        assert run(["chart", str(file), "-o", str(tmp_path / name)]) == 0
    assert b"round trips" in (tmp_path / "a.svg").read_bytes()
