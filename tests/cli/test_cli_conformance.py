import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pvnet.cli.conformance import SHOWN_MISMATCHES, conformance
from pvnet.core.errors import ConfigError

VECTORS = Path(__file__).parents[1] / "vectors"
SESSION = VECTORS / "linux-6.1-vmc-session.jsonl"
QEMU = VECTORS / "qemu-7.2-crq.jsonl"

app = typer.Typer()
app.command()(conformance)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def broken(tmp_path, old, new) -> Path:
    path = tmp_path / "broken.jsonl"
    path.write_text(SESSION.read_text().replace(old, new))
    return path


def test_all_agree():
    result = run(SESSION, QEMU)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{SESSION}: 20 passed, 0 failed",
        f"{QEMU}: 175 passed, 0 failed",
        "195 passed, 0 failed",
    ]


def test_a_mismatch_is_shown_and_is_exit_1(tmp_path):
    path = broken(tmp_path, '"crq": "80840000000000020000', '"crq": "80840200000000020000')
    result = run(path)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == f"{path}: 19 passed, 1 failed"
    assert lines[1] == "  record 11: CRQ message"
    assert lines[2].startswith("    expected 80840200000000020000000000000000 AddBufferResponse(")
    assert lines[3].startswith("    got      80840000000000020000000000000000 AddBufferResponse(")
    assert lines[4:] == ["19 passed, 1 failed"]


def test_many_mismatches_are_cut(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text(QEMU.read_text().replace('"rc": 0,', '"rc": 1,'))
    short, long = run(path), run(path, "--all")
    assert short.exit_code == long.exit_code == 1
    assert short.stdout.count("expected") == SHOWN_MISMATCHES
    assert "more (--all shows them)" in short.stdout
    assert long.stdout.count("expected") > SHOWN_MISMATCHES


def test_an_unreadable_file_is_exit_2_and_the_others_run(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(SESSION.read_text() + '{"from": "moon", "crq": ""}\n')
    result = run(path, tmp_path / "missing.jsonl", SESSION)
    assert result.exit_code == 2
    assert f"{path}:38: 'crq': \"\": expected 32 hex digits\n" in result.stderr
    assert "missing.jsonl: No such file or directory\n" in result.stderr
    assert result.stdout.splitlines()[-1] == "20 passed, 0 failed"


def test_json(tmp_path):
    result = run(SESSION, broken(tmp_path, '["0xe"', '["0xf"'), tmp_path / "missing", "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 2
    assert (said["passed"], said["failed"]) == (39, 1)
    assert [entry["failed"] for entry in said["files"]] == [0, 1]
    assert set(said["files"][1]["mismatches"][0]) == {"record", "what", "expected", "got"}
    assert len(said["errors"]) == 1


def test_transport_that_cannot_carry_recordings(monkeypatch):
    monkeypatch.setenv("PVNET_UNIX", "never")
    result = run(SESSION, "--transport", "unix")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "--transport unix: the environment forbids it (PVNET_UNIX=never)"
    assert run(SESSION, "--transport", "pigeon").exit_code == 2


def test_scm_traces_run(tmp_path):
    path = tmp_path / "scm.jsonl"
    path.write_text(
        '{"meta": {"schema": "pvnet-hcall-trace/1", "profile": "qemu"}}\n'
        '{"opcode": "0x400", "args": ["0x90000000"], "rc": -4}\n'
        '{"opcode": "0x400", "args": ["0x90000000"], "rc": 0}\n'
    )
    result = run(path)
    assert result.exit_code == 1
    assert "H_SCM_HEALTH drc=0x90000000" in result.stdout
    assert result.stdout.endswith("1 passed, 1 failed\n")


@pytest.mark.parametrize("word", ["one comparison", "Exit 0", "pvnet-vmc-transcript/1"])
def test_help_says_what_is_counted(word):
    assert word in " ".join(run("--help").stdout.replace("│", " ").split())
