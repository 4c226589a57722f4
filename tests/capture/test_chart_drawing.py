"""Diagram and page: valid, bounded, readable, whatever the names and bytes are."""

from __future__ import annotations

import json
import re
import subprocess
import time
import zlib
from base64 import b64decode
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from chart_rig import NASTY, call, hostile, noisy, reply, trips
from decode_rig import envelope, record
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.chart import Chart, ChartOptions, collect
from pvnet.capture.chart_detail import Details
from pvnet.capture.chart_html import html
from pvnet.capture.chart_layout import CHAR, LEFT, ROW, lay_out
from pvnet.capture.chart_svg import svg
from pvnet.capture.chart_text import CHANNELS, columns
from pvnet.capture.importers import open_any

TESTS = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"
FILES = sorted([*(TESTS / "vectors").glob("*-*.jsonl"), *(TESTS / "data").glob("*.log")])


def drawn(chart: Chart, limit: int = 300) -> ET.Element:
    return ET.fromstring(svg(chart, limit).encode())


def everything(root: ET.Element) -> str:
    return "\n".join(root.itertext())


def packed(page: str) -> list[Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return [json.loads(zlib.decompress(b64decode(block))) for block in json.loads(found[1])]


def test_a_diagram_says_what_it_shows() -> None:
    chart = collect([call(1, 0, 1), reply(2, 92_000, 1, -4), call(3, 5_000_000, 2)], title="my lab")
    root = drawn(chart)
    titles = [each.text or "" for each in root.iter(f"{SVG}title")]
    assert titles[0] == "my lab: sequence diagram"
    assert "3 messages between 2 nodes in 5 ms, 0 violations; 3 arrows for 3 of them" in everything(root)
    assert any(text.startswith("#2 hv to lpar1, hcall_reply") and "reply to #1 H_VIO_SIGNAL" in text for text in titles)
    assert any(text.endswith("; no reply") for text in titles)
    assert "✗ H_PARAMETER · 92 us" in everything(root)
    assert "no reply" in everything(root)
    assert "H_VIO_SIGNAL, 92 us" in titles  # the bar while it was under way
    assert "+4.91 ms" in everything(root)
    assert "hypervisor calls" in everything(root)


def test_repeats_are_one_frame_with_their_count() -> None:
    chart = collect(trips(42))
    root = drawn(chart)
    text = everything(root)
    assert "×42 round trips: H_VIO_SIGNAL (84 messages, 41.3 us)" in text
    assert "H_SUCCESS · p50 300 ns" in text
    assert len(lay_out(chart, 300).arrows) == 2
    assert len(lay_out(collect(trips(42), ChartOptions(fold=False)), 300).arrows) == 84


def test_what_does_not_fit_is_named_with_the_way_to_it() -> None:
    records = noisy(400)
    chart = collect(records, ChartOptions(fold=False))
    layout = lay_out(chart, 50)
    assert len(layout.arrows) == 50
    text = everything(drawn(chart, 50))
    found = re.search(r"350 more messages follow: --from ([0-9.]+)", text)
    assert found is not None
    rest = collect(records, ChartOptions(start_s=float(found[1])))
    assert rest.events[0].number == 51


def test_violations_have_a_mark_and_their_text() -> None:
    made = envelope("lpar1", "hv", correlation=1)
    made.schema = 7
    made.hcall.opcode = 0x104
    root = drawn(collect([record(made.SerializeToString())]))
    assert "! schema version 7" in everything(root)
    assert "violation" in [each.text for each in root.iter(f"{SVG}text")]
    assert any(each.get("fill") == "#b00020" for each in root.iter(f"{SVG}path"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("fold", [True, False])
def test_no_label_runs_into_another(path: Path, fold: bool) -> None:
    chart = collect(open_any(path), ChartOptions(fold=fold))
    layout = lay_out(chart, 200)
    root = drawn(chart, 200)
    assert len(layout.arrows) <= 200
    for above, below in pairwise(layout.arrows):
        assert below.y - above.y >= ROW
    for arrow in layout.arrows:
        start = layout.xs.get(arrow.event.source, LEFT)
        end = layout.width if arrow.event.is_local else layout.xs[arrow.event.target]
        assert columns(arrow.label) * CHAR <= abs(end - start)
        assert all(columns(note) * CHAR <= layout.width for note in arrow.notes)
    for left, right in pairwise(layout.xs.values()):
        assert right - left >= 100
    boxes = sorted(
        {
            (float(each.get("x", "0")), float(each.get("width", "0")))
            for each in root.iter()
            if each.get("class") == "box"
        }
    )
    assert all(x + width <= after for (x, width), (after, _) in pairwise(boxes))


def contrast(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


@pytest.mark.parametrize("key", CHANNELS)
def test_colours_can_be_seen(key: str) -> None:
    assert contrast(CHANNELS[key].colour) >= 3.0


@pytest.mark.parametrize("records", [hostile, list, lambda: trips(1)], ids=["hostile", "empty", "one"])
def test_text_stays_text(records: Callable[[], list[Any]]) -> None:
    chart = collect(records(), ChartOptions(details=True), NASTY)
    root = drawn(chart)
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        "svg", "title", "desc", "style", "rect", "text", "path", "g", "circle",
    }  # fmt: skip
    assert all("\x1b" not in text and "\u202e" not in text for text in root.itertext())
    page = html(chart)
    assert page.lower().count("<script") == 2
    assert page.lower().count("</script>") == 2
    assert "\x00" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)\s*=|https?://(?!www\.w3\.org/2000/svg)|@import|url\(""", page)


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=80), st.binary(max_size=40))
def test_any_text_is_valid_xml(source: str, target: str, text: str, data: bytes) -> None:
    names = [name.encode("utf-8", "replace").decode() for name in (source, target, text)]
    made = envelope(names[0], names[1], correlation=1)
    made.refusal.text = names[2]
    chart = collect(
        [record(made.SerializeToString(), name=source), record(data, name=target, number=2)],
        ChartOptions(details=True), text,
    )  # fmt: skip
    drawn(chart)
    assert packed(html(chart).encode("utf-8", "backslashreplace").decode())


def test_a_page_has_everything() -> None:
    chart = collect(trips(300), ChartOptions(details=True), title="t")
    index, *blocks = packed(html(chart))
    assert index["nodes"] == ["lpar1", "hv"]
    assert index["folds"] == [[0, 2, 300]]
    assert len(index["events"]) == 600
    assert index["events"][1][9:13] == [0, 1, index["texts"].index("H_VIO_SIGNAL"), 300]
    assert sum(map(len, blocks)) == 600
    layers, data, _comment = blocks[0][0]
    assert data == trips(1)[0].data.hex()
    assert ["hcall.opcode", "H_VIO_SIGNAL (0x104)"] in next(fields for name, _text, fields in layers if name == "hcall")
    assert packed(html(collect(trips(2))))[0]["notes"]  # without details


def test_a_page_says_what_it_leaves_out() -> None:
    chart = collect(trips(3), ChartOptions(details=True))
    chart.details = Details(0)
    chart.details.left_out = 6
    assert "no fields and bytes of the last 6 messages" in packed(html(chart))[0]["notes"][1]


@pytest.mark.slow
def test_30000_messages_are_drawn_quickly_and_small() -> None:
    records = noisy(30_000)
    began = time.process_time()
    chart = collect(records, ChartOptions(details=True))
    picture, page = svg(chart), html(chart)
    assert time.process_time() - began < 12  # about 4 s on a quiet machine, most of it in decoding
    assert len(picture) < 300_000
    assert len(page) < 4_000_000
    assert ET.fromstring(picture.encode()) is not None


@pytest.mark.needs("node")
def test_the_page_works(tmp_path: Path) -> None:
    """Its script, in a document that only has what it uses: rows, repeats, search, choice, windows."""
    records = [*trips(20), *hostile()]
    page = html(collect([*records, *noisy(2000)], ChartOptions(details=True), title="a <b>"))
    file = tmp_path / "page.html"
    file.write_bytes(page.encode("utf-8", "backslashreplace"))
    done = subprocess.run(
        ["node", TESTS / "chart_page_driver.js", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["title"] == "a <b>"
    assert 0 < seen["drawn"] < 100  # only what is to be seen
    assert seen["folded"] < seen["unfolded"]
    assert seen["chosen"][:2] == "#1"
    assert "hcall.opcode" in seen["chosen"]
    assert "000000  08 01" in seen["chosen"]
    assert seen["match"].startswith("1 of ")
    assert 0 < seen["only"] < seen["folded"]
    assert 0 < seen["window"] < seen["folded"]
    assert 0 < seen["wrong"] < seen["folded"]
    assert seen["hidden"] < seen["folded"]
    assert seen["zoomed"] > seen["height"]
    assert seen["last"] > 0
