"""The schema keeps its promises, and each kind of broken promise is refused."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = spec_from_file_location("pvnet_proto_compat", ROOT / "proto/compat.py")
assert _spec is not None
assert _spec.loader is not None
compat = module_from_spec(_spec)
_spec.loader.exec_module(compat)


def test_schema_keeps_every_promise_and_records_every_addition() -> None:
    done = subprocess.run([sys.executable, "proto/compat.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_promise_holds_fields_nested_messages_and_enum_values() -> None:
    promised = json.loads(compat.PROMISE.read_text())
    assert promised["pvnet.v1.Envelope.seq"] == "8: uint64"
    assert promised["pvnet.v1.Envelope.hcall"] == "20: pvnet.v1.Hcall in oneof body"
    assert promised["pvnet.v1.ManagementReply.partitions"] == "4: repeated pvnet.v1.Partition"
    assert promised["pvnet.v1.Lifecycle.Phase.READY"] == "2"


@pytest.mark.parametrize(
    ("name", "now", "says"),
    [
        ("M.kept", None, "M.kept was removed or renamed"),
        ("M.kept", "2: uint64", "M.kept is 2: uint64, promised as 1: uint64"),
        ("M.kept", "1: fixed64", "M.kept is 1: fixed64, promised as 1: uint64"),
        ("M.kept", "1: repeated uint64", "M.kept is 1: repeated uint64, promised as 1: uint64"),
        ("M.kept", "1: uint64 in oneof body", "M.kept is 1: uint64 in oneof body, promised as 1: uint64"),
    ],
)
def test_each_broken_promise_is_named(name: str, now: str | None, says: str) -> None:
    schema = {"M.new": "9: bytes"} | ({name: now} if now else {})
    (line,) = compat.broken({name: "1: uint64"}, schema)
    assert line.startswith(says)


def test_an_addition_breaks_nothing() -> None:
    assert compat.broken({"M.kept": "1: uint64"}, {"M.kept": "1: uint64", "M.new": "2: bytes"}) == []
