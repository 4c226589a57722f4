"""``pvnet demo --loopback``: the same run makes the same file, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def demo(*options: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pvnet.cli.main", "demo", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": hash_seed},
    )


@pytest.mark.slow
def test_the_same_seed_makes_the_same_capture(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.pcapng" for number in range(3)]
    for file, seed, hash_seed in zip(files, ("7", "7", "8"), ("1", "2", "1"), strict=True):
        done = demo("--loopback", "--seed", seed, "--record", str(file), "--json", hash_seed=hash_seed)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["ok"]
    first, again, other = (file.read_bytes() for file in files)
    assert first == again
    assert first != other


def test_seed_and_record_need_loopback(tmp_path: Path) -> None:
    done = demo("--record", str(tmp_path / "x.pcapng"))
    assert done.returncode == 2
    assert "expected --loopback" in done.stderr
    assert not (tmp_path / "x.pcapng").exists()
