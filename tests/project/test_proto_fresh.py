"""``pvnet/pb`` is what ``proto/`` says, and the check that says so can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")

ROOT = Path(__file__).resolve().parents[2]


def check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "proto/generate.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )


def test_generated_modules_match_the_schema() -> None:
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


def test_an_edited_schema_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copytree(ROOT / "pvnet/pb", tmp_path / "pvnet/pb")
    envelope = tmp_path / "proto/pvnet/pb/v1/envelope.proto"
    envelope.write_text(envelope.read_text().replace("string lab = 2;", "string laboratory = 2;"))
    done = check(tmp_path)
    assert done.returncode == 1
    assert "pvnet/pb/v1/envelope_pb2.py is not what proto/ says" in done.stderr
