"""docs/capture.md: what it says of formats, fields, options and the plugin is what the program has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from docs.test_documents import relative
from wireshark_rig import tshark_for_tests

import pvnet.capture.importers
from pvnet.capture import snoop
from pvnet.capture.chart_html import MAX_EVENTS
from pvnet.capture.chart_svg import MAX_ARROWS
from pvnet.capture.decode import FIELDS
from pvnet.capture.expect import DEFAULT_RULES, DIFFERENCES_KEPT, Rules
from pvnet.capture.exporters import WRITTEN
from pvnet.capture.filter import RECORD_FIELDS, Filter
from pvnet.capture.model import (
    LINKTYPE_ENVELOPE,
    LINKTYPE_ETHERNET,
    LINKTYPE_HCALL,
    LINKTYPE_MEMORY,
    Direction,
    Interface,
)
from pvnet.capture.pcapng import LONGEST_BLOCK, MOST_INTERFACES, MOST_OPTIONS
from pvnet.capture.pvcap import SUFFIX, create_capture, make_info
from pvnet.capture.show_text import TimeColumn
from pvnet.cli import chart, convert, record, replay, show
from pvnet.cli.replay import SHOWN_DIFFERENCES
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.papr_pb2 import CrqEntry
from pvnet.runtime.message_tap import BUFFER_BYTES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "capture.md"
TEXT = DOCUMENT.read_text()
REFERENCE = re.compile(r"\becosystem C(?:\.(\d+))?")


def section(number: str) -> str:
    """The text of a section with those inside it."""
    found = re.search(
        rf"^(#+) {re.escape(number)}\.? [^\n]*\n(.*?)(?=^#{{1,3}} [0-9]|\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"no section {number}"
    return found[2]


def first_column(number: str) -> list[str]:
    """What stands in back quotes in the first cells of the tables of a section."""
    cells = re.findall(r"^\| ([^|]*(?:\\\|[^|]*)*) \|", section(number), re.MULTILINE)
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_sections_that_comments_refer_to_exist() -> None:
    known = set(re.findall(r"^#+ ([0-9.]+?)\.? ", TEXT, re.MULTILINE))
    missing, found = [], 0
    for path in [*(ROOT / "pvnet").rglob("*.py"), *(ROOT / "services").rglob("*.py")]:
        for number in REFERENCE.findall(path.read_text()):
            found += 1
            if number and number not in known:
                missing.append(f"{relative(path)}: {number}")
    assert found >= 5
    assert missing == []
    assert "4.4" in known


def test_links_within_the_document_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", TEXT) if link not in anchors] == []


def test_the_document_shows_the_example_topology() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert shown == (ROOT / "examples" / "replayed_mp.toml").read_text()


def test_every_format_that_is_read_is_listed() -> None:
    names = re.findall(r"^``([a-z-]+)``", pvnet.capture.importers.__doc__ or "", re.MULTILINE)
    assert first_column("4.1")[: len(names)] == names
    matrix = section("4.3")
    assert all(f"`{name}`" in matrix for name in WRITTEN)


def test_link_types_are_those_that_are_written() -> None:
    rows = re.findall(r"^\| (\d+) \(", section("2"), re.MULTILINE)
    assert list(map(int, rows)) == [LINKTYPE_ENVELOPE, LINKTYPE_ETHERNET, LINKTYPE_HCALL, LINKTYPE_MEMORY]


def test_every_field_is_in_the_table() -> None:
    shown = set(re.findall(r"`([a-z_]+\.[a-z_.0-9]+)`", section("3.2")))
    assert set(FIELDS) <= shown
    assert set(RECORD_FIELDS) <= set(first_column("3.2"))


def test_filters_that_are_shown_are_filters() -> None:
    shown = re.findall(r"--filter \"([^\"]+)\"", TEXT)
    (drawn,) = re.findall(r"```text\n(.*?)```", section("3.2"), re.DOTALL)
    shown += [re.split(r" {2,}", line)[0] for line in drawn.splitlines()]
    assert len(shown) >= 8
    for text in shown:
        if "vcm" not in text:
            Filter.parse(text)


def options(module: object) -> set[str]:
    """The options of a verb, as its module names them."""
    words: set[str] = set()
    for node in ast.walk(ast.parse(Path(str(vars(module)["__file__"])).read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= {word for word in node.value.split("/") if re.fullmatch(r"-o|--[a-z-]+", word)}
    return words


def test_options_that_are_named_exist() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", TEXT))
    others = {"--loopback", "--seed", "--record", "--detach", "--count", "--lab", "--json"}
    known = set().union(*(options(module) for module in (chart, convert, record, replay, show))) | others
    assert named - known == set()


def test_every_option_of_replay_and_show_is_explained() -> None:
    replayed = section("5") + section("5.1") + section("5.2") + section("5.3")
    assert [name for name in options(replay) if name not in replayed] == []
    assert [name for name in options(show) if name not in section("3.1")] == []
    assert "|".join(TimeColumn) in section("3.1").replace("\\|", "|")


def test_limits_are_those_of_the_program() -> None:
    dropped = section("1.3")
    assert f"{snoop.MOST_RECORDS} records or {snoop.MOST_BYTES >> 20} MiB" in dropped
    assert f"({BUFFER_BYTES >> 20} MiB" in dropped
    assert f"every {snoop.STATISTICS_S:g} s" in dropped
    assert f"the last {snoop.LINGER_S * 1000:g} ms" in dropped
    file = section("2")
    assert f"at most {LONGEST_BLOCK >> 20} MiB" in file
    assert f"{MOST_OPTIONS} entries" in file
    assert f"{MOST_INTERFACES} interfaces" in file
    assert f"({MAX_ARROWS})" in section("3.4")
    assert f"at most {MAX_EVENTS} messages" in section("3.4")
    assert f"At most {SHOWN_DIFFERENCES} differences" in section("5.3")
    assert f"up to {DIFFERENCES_KEPT}" in section("5.3")
    assert SUFFIX in TEXT


def test_rules_are_those_of_the_program() -> None:
    text = section("5.3")
    (shown,) = [block for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL) if "[same]" in block]
    rules = Rules.parse(shown, "capture.md")
    assert rules.exact
    assert rules.same
    below = text.partition("`defaults = false`")[2]
    assert set(re.findall(r"`([^`]+)`", below)) >= {*DEFAULT_RULES.ignore, *DEFAULT_RULES.skip}


@pytest.mark.needs("tshark")
def test_the_display_filter_that_is_shown_is_one(tmp_path: Path) -> None:
    """As shown, with the plugin, by somebody who is not root."""
    (wanted,) = re.findall(r'^tshark -X lua_script:pvnet\.lua .* -Y "([^"]+)"$', section("3.3"), re.MULTILINE)
    file = tmp_path / "x.pvcap.pcapng"
    with create_capture(file, make_info("{}")) as writer:
        for kind in (2, 6):
            element = bytes([0x80, kind, 0, 0, 1, *bytes(11)])
            envelope = Envelope(schema=1, source="hypervisor", destination="mp", crq_entry=CrqEntry(element=element))
            writer.record(Interface("hypervisor/crq"), 1, envelope.SerializeToString(), direction=Direction.OUT)
    with tshark_for_tests() as tshark:
        assert len(tshark(file, "-Y", wanted).splitlines()) == 1
        plain = len(tshark(file).splitlines())
    assert plain == 4, "two records, and the two custom blocks that the document speaks of"
