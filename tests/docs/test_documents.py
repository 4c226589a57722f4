"""The documents agree with the program and with each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
REVIEW_ROW = re.compile(r"^\| (\d+) \| .+ \| .+ \| `(tests/[^`]+)` \|$", re.MULTILINE)
PATH = re.compile(r"`((?:pvnet|services|tests|examples|deploy|proto|docs)/[A-Za-z0-9_./-]*[A-Za-z0-9_/])`")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def has_test(test_id: str) -> bool:
    """Whether ``file.py::Class::function`` (or without the class) is defined."""
    name, *inside = test_id.split("::")
    path = ROOT / name
    if not path.is_file() or not inside:
        return False
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in inside:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = [node for node in body if isinstance(node, kinds) and node.name == part]
        if not found:
            return False
        body = found[0].body
    return True


def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def section(document: str, heading: str) -> str:
    """The text below a heading, up to the next one."""
    text = (ROOT / "docs" / document).read_text()
    found = re.search(rf"^#+ {re.escape(heading)}\.? .*\n((?:(?!#).*\n?)*)", text, re.MULTILINE)
    assert found is not None, f"{document} has no section {heading}"
    return found[1]


@pytest.mark.parametrize(
    ("document", "heading", "rows"),
    [("vmc.md", "11", 18), ("scm.md", "6.1", 17), ("scm.md", "6.2", 17), ("scm.md", "11", 19)],
)
def test_every_review_point_is_answered_by_a_test_that_exists(document: str, heading: str, rows: int) -> None:
    found = REVIEW_ROW.findall(section(document, heading))
    assert [int(number) for number, _ in found] == list(range(1, rows + 1))
    assert [test for _, test in found if not has_test(test)] == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert has_test("tests/docs/test_documents.py::test_generated_parts_are_up_to_date")
    assert not has_test("tests/docs/test_documents.py::test_nothing")
    assert not has_test("tests/docs/test_missing.py::test_nothing")
    assert not has_test("tests/docs/test_documents.py")


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    assert [path for path in PATH.findall(text) if not (ROOT / path).exists()] == []


def test_every_example_and_document_is_listed() -> None:
    readme = (ROOT / "README.md").read_text()
    packages = [path.parent for path in (ROOT / "examples").glob("*/pyproject.toml")]
    for path in [*(ROOT / "examples").glob("*.py"), *packages, *(ROOT / "docs").glob("*.md")]:
        assert relative(path) in readme


def test_the_program_of_the_readme_is_an_example() -> None:
    readme = (ROOT / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert program == (ROOT / "examples" / "router_echo.py").read_text()
    assert len(readme.splitlines()) < 180


def references(spec: str) -> dict[str, list[tuple[str, list[int]]]]:
    """What the code says of a document: (section, rows of its table) by file.  Written as ``6.1 (6 - 12)``."""
    one = r"\d+(?:\.\d+)?(?: \([0-9, -]+\))?"
    found: dict[str, list[tuple[str, list[int]]]] = {}
    for path in [*(ROOT / "pvnet").rglob("*.py"), *(ROOT / "services").rglob("*.py")]:
        for listed in re.findall(rf"\b{spec} ({one}(?:(?:, | to | - ){one})*)", path.read_text()):
            for number, rows in re.findall(r"(\d+(?:\.\d+)?)(?: \(([0-9, -]+)\))?", listed):
                wanted: list[int] = []
                for low, high in re.findall(r"(\d+)(?: ?- ?(\d+))?", rows):
                    wanted += range(int(low), int(high or low) + 1)
                found.setdefault(relative(path), []).append((number, wanted))
    return found


@pytest.mark.parametrize(("spec", "document"), [("Spec: vmc", "vmc.md"), ("hcall_scm", "scm.md")])
def test_sections_that_comments_refer_to_exist(spec: str, document: str) -> None:
    headings = set(re.findall(r"^#+ ([0-9.]+?)\.? ", (ROOT / "docs" / document).read_text(), re.MULTILINE))
    found = references(spec)
    assert found, "nobody refers to the document"
    missing = []
    for path, listed in found.items():
        for number, rows in listed:
            if number not in headings:
                missing.append(f"{path}: {number}")
            elif rows:
                numbers = {int(row) for row, _ in REVIEW_ROW.findall(section(document, number))}
                missing += [f"{path}: {number} ({row})" for row in rows if row not in numbers]
    assert missing == []


def test_references_are_read_as_they_are_written() -> None:
    assert references("hcall_scm")["pvnet/papr/continuation.py"] == [("1.7", []), ("6.1", [8, 9, 10, 12, 15])]
    assert ("6.1", list(range(6, 13))) in references("hcall_scm")["pvnet/scm/bind_calls.py"]


def test_licence_is_stated() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "Apache-2.0" in (ROOT / "README.md").read_text()


def test_changes_are_listed_for_the_next_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    unreleased = changelog.partition("## [Unreleased]")[2].partition("\n## ")[0]
    assert re.findall(r"^- \S", unreleased, re.MULTILINE)
