"""The table of requests: consistent in itself, and telling what is missing."""

from __future__ import annotations

import pytest

from pvnet.novalink.catalog import CATALOG, EMPTY, EMPTY_KINDS, MISSING_KINDS, NO, YES, explain


def test_each_request_is_there_once() -> None:
    keys = [(row.method, row.path) for row in CATALOG]
    assert len(set(keys)) == len(keys)
    assert {row.state for row in CATALOG} == {YES, EMPTY, NO}
    assert [row.tier for row in CATALOG] == sorted(row.tier for row in CATALOG)
    assert all(row.note for row in CATALOG if row.state != YES)


def test_no_kind_is_both_empty_and_missing() -> None:
    assert not EMPTY_KINDS.keys() & MISSING_KINDS.keys()


@pytest.mark.parametrize("kind", sorted(MISSING_KINDS))
def test_a_missing_kind_is_explained(kind: str) -> None:
    text = explain(f"/rest/api/uom/ManagedSystem/x/{kind}/y?group=None")
    assert text.startswith(f"no {kind} here: ")
    assert "pvnet supported novalink" in text


def test_any_other_path() -> None:
    assert explain("/rest/api/uom/Nonsense?a=b").startswith("nothing at /rest/api/uom/Nonsense?a=b; ")
    assert len(explain("/" + "x" * 10_000)) < 300
