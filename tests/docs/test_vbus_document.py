"""docs/vbus.md: every review point and every case of abuse has a test; what comments refer to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs.test_documents import has_test, relative, section

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| ([AR]?\d+) \| .+ \| .+ \| ((?:`tests/[^`]+`(?:, )?)+) \|$", re.MULTILINE)
REFERENCE = re.compile(r"Spec: vbus ([^;\"]*?)(?:[;\"]|\.\s|$)|\(vbus ([^()]*)\)")


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of a section's table: number, and the tests that stand behind it."""
    return {number: re.findall("`([^`]+)`", tests) for number, tests in ROW.findall(section("vbus.md", heading))}


@pytest.mark.parametrize(("heading", "letter", "count"), [("1", "R", 7), ("10.4", "", 11), ("11", "A", 35)])
def test_every_row_has_tests_that_exist(heading: str, letter: str, count: int) -> None:
    found = rows(heading)
    assert list(found) == [f"{letter}{number}" for number in range(1, count + 1)]
    assert [test for tests in found.values() for test in tests if not has_test(test)] == []


def test_every_test_that_is_named_after_a_case_of_abuse_belongs_to_it() -> None:
    """A test ``test_a08_...`` that a row names stands in row A8, and each row but two has one that is named so."""
    without = set()
    for case, tests in rows("11").items():
        named = [re.findall(r"(?<=_)a(\d\d)(?=_)", test.rpartition("::")[2]) for test in tests]
        for numbers in named:
            assert not numbers or f"{int(case[1:]):02}" in numbers
        if not any(named):
            without.add(case)
    assert without == {"A13", "A25"}


def references() -> dict[str, list[str]]:
    """What comments and docstrings of the code refer to, by file: sections, ``section row``, A.. and R.. ."""
    found: dict[str, list[str]] = {}
    for path in [*(ROOT / "pvnet").rglob("*.py"), *(ROOT / "services").rglob("*.py")]:
        for text in map("".join, REFERENCE.findall(path.read_text())):
            listed = found.setdefault(relative(path), [])
            for word, inside in re.findall(r"(?<![\w.])(\d+(?:\.\d+)?|[AR]\d+)(?![\w.]\d)(?: \(([^)]*)\))?", text):
                listed.append(word)
                listed += re.findall(r"\b[AR]\d+\b", inside)
                listed += [f"{word} {row}" for row in re.findall(r"^\d+$", inside)]
    return found


def test_sections_and_rows_that_comments_refer_to_exist() -> None:
    document = (ROOT / "docs" / "vbus.md").read_text()
    known = set(re.findall(r"^#+ ([0-9.]+?)\.? ", document, re.MULTILINE))
    known |= {*rows("1"), *rows("11"), *(f"10.4 {row}" for row in rows("10.4"))}
    found = references()
    assert len(found) > 30
    assert [f"{path}: {word}" for path, words in found.items() for word in words if word not in known] == []


def test_references_are_read_as_they_are_written() -> None:
    found = references()
    assert found["pvnet/vbus/event_loop.py"] == ["1", "R6", "4.3", "10.4", "10.4 11", "A13", "A15", "A17"]
    assert found["pvnet/vbus/mirror.py"] == ["1", "R1", "R4", "2", "5.2"]
    assert {"6.6", "6.8"} <= set(found["pvnet/ring/ioq_south.py"])
