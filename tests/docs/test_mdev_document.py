"""docs/mdev.md: every case of abuse has a test; what comments refer to exists; what it says of QEMU and of support."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from docs.test_documents import has_test, relative, section

from pvnet.cli.hcall import support_matrix
from pvnet.mdev.ccw_states import TABLE as CCW_TABLE
from pvnet.mdev.errors import MdevError
from pvnet.mdev.migration import NEXT_HOP
from pvnet.mdev.vfio_features import Feature
from pvnet.mdev.vfio_user import Command
from pvnet.mdev.vfio_user_requests import HANDLERS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "mdev.md"
ROW = re.compile(r"^\| ([ABDER]\d+) \| .+ \| .+ \| ((?:`tests/[^`]+`(?:, )?)+) \|$", re.MULTILINE)
REFERENCE = re.compile(r"[Ss]pec: mdev ([^;\"]*?)(?:[;\"]|\.\s|\.$|$)", re.MULTILINE)
TABLES = {"9.1": ("A", 16), "9.2": ("B", 37), "9.3": ("E", 19), "9.4": ("D", 17), "2": ("R", 57)}


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of a section's table: number, and the tests that stand behind it."""
    return {number: re.findall("`([^`]+)`", tests) for number, tests in ROW.findall(section("mdev.md", heading))}


@pytest.mark.parametrize("heading", TABLES)
def test_every_row_has_tests_that_exist(heading: str) -> None:
    letter, count = TABLES[heading]
    found = rows(heading)
    assert list(found) == [f"{letter}{number}" for number in range(1, count + 1)]
    assert [test for tests in found.values() for test in tests if not has_test(test)] == []


@pytest.mark.parametrize("heading", ["9.1", "9.2", "9.4"])
def test_every_test_that_is_named_after_a_case_of_abuse_belongs_to_it(heading: str) -> None:
    letter, _ = TABLES[heading]
    for case, tests in rows(heading).items():
        for test in tests:
            named = re.findall(rf"(?<=_){letter.lower()}(\d+)(?=_|$)", test.rpartition("::")[2])
            assert not named or case[1:] in named, f"{case}: {test}"


def references() -> dict[str, list[str]]:
    """What comments and docstrings of the code refer to, by file: sections and rows."""
    found: dict[str, list[str]] = {}
    for path in [*(ROOT / "pvnet").rglob("*.py"), *(ROOT / "services").rglob("*.py")]:
        for text in REFERENCE.findall(path.read_text()):
            plain = re.sub(r"\((?![ABDR]\d)[^)]*\)", "", text)
            found.setdefault(relative(path), []).extend(
                re.findall(r"(?<![\w.])(?:\d+(?:\.\d+)?|[ABDRVC]\d+)(?![\w]|\.\d)", plain)
            )
    return found


def test_sections_and_rows_that_comments_refer_to_exist() -> None:
    known = set(re.findall(r"^#+ ([0-9.]+?)\.? ", DOCUMENT.read_text(), re.MULTILINE))
    known |= {row for heading in TABLES for row in rows(heading)}
    known |= {*(f"V{n}" for n in range(1, 27)), *(f"C{n}" for n in range(1, 19))}
    found = references()
    assert len(found) > 50
    assert [f"{path}: {word}" for path, words in found.items() for word in words if word not in known] == []


def test_references_are_read_as_they_are_written() -> None:
    found = references()
    assert found["pvnet/mdev/life_steps.py"] == ["2", "R15", "R23", "9.1", "A16"]
    assert found["pvnet/mdev/ccw_path.py"] == ["5.1", "5.6", "9.4", "D15", "D17"]


def test_links_within_the_document_lead_somewhere() -> None:
    text = DOCUMENT.read_text()
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", text) if link not in anchors] == []


def test_the_device_that_qemu_is_told_of_is_the_one_that_is_tested() -> None:
    (shown,) = re.findall(r"-device '(\{.*\})'", DOCUMENT.read_text())
    tested = (ROOT / "tests" / "interop" / "qemu_guest.py").read_text()
    device = json.loads(shown)
    assert device["driver"] == "vfio-user-pci"
    assert set(device) == {"driver", "socket"}
    assert '{"driver": "vfio-user-pci", "socket": {"path": str(path), "type": "unix"}}' in tested


def states(kind: str) -> dict[str, str]:
    return {row["name"]: row["state"] for row in support_matrix() if row["kind"] == kind}


def test_what_is_said_to_be_supported_is() -> None:
    commands = states("vfio-user command")
    assert set(commands) == {command.name for command in Command}
    beside = {"VERSION", "REGION_READ", "REGION_WRITE", "REGION_WRITE_MULTI", "DMA_READ", "DMA_WRITE"}
    assert {name for name, state in commands.items() if state.startswith("yes")} == {
        *beside,
        *(Command(number).name for number in HANDLERS),
    }
    features = states("vfio feature")
    assert {name for name, state in features.items() if state == "yes"} == {feature.name for feature in Feature}
    assert {name for name, state in states("set irqs").items() if "ENOTTY" in state} == {
        "EVENTFD MASK",
        "EVENTFD UNMASK",
    }
    assert all(row["state"] != "no (not yet)" for row in support_matrix())


def test_the_tables_have_what_the_program_has() -> None:
    text = DOCUMENT.read_text()
    assert text.count("| `REGION_READ` | yes |") == 1
    for state in {state.name for state, _ in CCW_TABLE} | {state.name for state, _ in NEXT_HOP}:
        assert f"`{state}`" in text


def test_an_errno_of_a_refusal_is_told_by_its_name() -> None:
    """The document says so: `pvnet` prints both the reason and the errno."""
    assert str(MdevError(22, "why")) == "why (EINVAL)"
