"""``pvnet scm`` as a user types it, every verb, against one real lab; what is wrong is one line and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvnet.capture.hcall_trace import TraceCall, read_hcall_trace
from pvnet.papr.hcall import HcallOpcode

PVNET = str(Path(sys.executable).parent / "pvnet")
VECTORS = Path(__file__).parents[1] / "vectors"
LABELS = 128 << 10
TOPOLOGY = """
[lab]
name = "scm"

[[partition]]
name = "lpar1"

[[partition.scm]]
size = "2MiB"
block_size = "1MiB"

[[partition.scm]]
size = "4MiB"
block_size = "1MiB"
label_size = "4KiB"
profile = "phyp"

[[partition.scm]]
type = "nvdimm"
size = "1MiB"
block_size = "4KiB"
label_size = "4KiB"
readonly = true
unarmed = true

[[partition]]
name = "lpar2"
autostart = false

[[partition.scm]]
drc = "0x91000000"
size = "1MiB"
block_size = "64KiB"

[[partition]]
name = "lpar3"
"""


class Cli:
    """Runs ``pvnet scm`` with a runtime directory of its own."""

    def __init__(self, runtime: Path) -> None:
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        for name in ("PVNET_LAB", "PVNET_DEBUG", "PVNET_LOG"):
            self.environment.pop(name, None)

    def pvnet(self, *words: str, code: int = 0, stdin: bytes = b"") -> tuple[str, str]:
        done = subprocess.run(
            [PVNET, *words], env=self.environment, capture_output=True, input=stdin, check=False, timeout=100
        )
        out, error = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in out + error
        assert "internal error" not in error
        assert done.returncode == code, out + error
        return out, error

    def __call__(self, *words: str, code: int = 0, stdin: bytes = b"") -> str:
        out, error = self.pvnet("scm", *words, code=code, stdin=stdin)
        assert error == ""
        return out

    def refusal(self, *words: str, code: int) -> str:
        out, error = self.pvnet("scm", *words, code=code)
        assert out == ""
        assert len(error.splitlines()) == 1, error
        assert error.startswith("pvnet: ")
        return error.removeprefix("pvnet: ").strip()


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    runtime = tmp_path_factory.mktemp("runtime")
    runtime.chmod(0o700)
    topology = runtime.with_suffix(".toml")
    topology.write_text(TOPOLOGY)
    made = Cli(runtime)
    made.pvnet("up", "-f", str(topology), "--detach")
    yield made
    made.pvnet("down")
    assert list(runtime.rglob("*")) == []


def ndctl_area() -> bytes:
    """The label area that real ndctl left: the writes of the recording, in order."""
    area = bytearray(LABELS)
    for item in read_hcall_trace(VECTORS / "linux-6.1-scm-labels-init.jsonl").records:
        if isinstance(item, TraceCall) and item.opcode == HcallOpcode.H_SCM_WRITE_METADATA:
            drc, offset, data, length = item.args
            if drc == 0x90000001:
                area[offset : offset + length] = data.to_bytes(length, "big")
    return bytes(area)


def test_list(cli: Cli) -> None:
    table = [line.split() for line in cli("list").splitlines()]
    assert table == [
        ["DEVICE", "DRC", "TYPE", "PROFILE", "SIZE", "BLOCK", "STATE", "ADDRESS"],
        ["lpar1:0", "0x90000000", "spapr-nvdimm", "qemu", "2", "MiB", "1", "MiB", "ready", "0x40000000"],
        ["lpar1:1", "0x90000001", "spapr-nvdimm", "phyp", "4", "MiB", "1", "MiB", "ready", "0x40200000"],
        ["lpar1:2", "0x90000002", "nvdimm", "qemu", "1", "MiB", "4", "KiB", "ready", "0x40600000"],
        ["lpar2:0", "0x91000000", "spapr-nvdimm", "qemu", "1", "MiB", "64", "KiB", "off", "-"],
    ]
    rows = json.loads(cli("list", "--json", "--lab", "scm"))
    assert [row["device"] for row in rows] == ["lpar1:0", "lpar1:1", "lpar1:2", "lpar2:0"]
    assert rows[1] == {
        "device": "lpar1:1",
        "drc": "0x90000001",
        "type": "spapr-nvdimm",
        "profile": "phyp",
        "size_bytes": 4 << 20,
        "block_size": 1 << 20,
        "label_bytes": 4096,
        "state": "ready",
        "address": "0x40200000",
    }
    assert rows[3]["address"] is None


def test_show(cli: Cli) -> None:
    lines = cli("show", "lpar1:1").splitlines()
    assert lines[0] == "ibm,pmemory@90000001"
    shown = dict(line.split(maxsplit=1) for line in lines[1:])
    assert shown["compatible"] == "ibm,pmemory"
    assert shown["ibm,my-drc-index"] == "0x90000001"
    assert shown["ibm,number-of-blocks"] == "0x0 0x4"
    assert shown["ibm,block-size"] == "0x0 0x100000"
    assert shown["ibm,hcall-flush-required"] == "(present)"
    plain = json.loads(cli("show", "lpar1:2", "--json"))
    assert plain["node"] == "ibm,pmemory@90000002"
    assert "ibm,hcall-flush-required" not in plain["properties"]
    assert plain["properties"]["ibm,metadata-size"] == "00001000"
    assert cli("show", "lpar2").startswith("ibm,pmemory@91000000"), "also of a partition that is off"


@pytest.mark.needs("dtc")
@pytest.mark.parametrize("device", ["lpar1:0", "lpar1:2"])
def test_shown_device_tree_is_one(cli: Cli, tmp_path: Path, device: str) -> None:
    blob = tmp_path / "node.dtb"
    assert cli("show", device, "--dtb", str(blob)) == cli("show", device)
    done = subprocess.run(["dtc", "-I", "dtb", "-O", "dts", str(blob)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ibm,persistent-memory {" in done.stdout
    assert f"ibm,pmemory@9000000{device[-1]} {{" in done.stdout
    assert 'compatible = "ibm,pmemory";' in done.stdout
    assert "ERROR" not in done.stderr


def test_label_area_of_ndctl(cli: Cli, tmp_path: Path) -> None:
    area = ndctl_area()
    file, back = tmp_path / "area", tmp_path / "back"
    file.write_bytes(area)
    assert cli("labels", "lpar1:2") == "label area of 4096 bytes: blank\n"
    assert cli("write", "lpar1", f"@{file}", "--labels", "--flush") == f"{LABELS} bytes at 0x0, flushed\n"
    assert cli("read", "lpar1", "128k", "--labels", "-o", str(back)) == f"{LABELS} bytes\n"
    assert back.read_bytes() == area
    assert cli("labels", "lpar1").splitlines() == [
        f"label area of {LABELS} bytes: slots of 128",
        "  index 0: sequence 3, ok",
        "  index 1: sequence 2, ok",
    ]
    cli("write", "lpar1", "x", "--labels", "--offset", "0x20")
    damaged = json.loads(cli("labels", "lpar1", "--json", code=1))
    assert (damaged["sound"], damaged["blank"], damaged["label_size"]) == (False, False, 128)
    assert [index["ok"] for index in damaged["indexes"]] == [False, True]


def test_read_and_write(cli: Cli, tmp_path: Path) -> None:
    assert cli("write", "lpar1:1", "hello", "--offset", "0xfffff") == "5 bytes at 0xfffff\n"
    assert cli("read", "lpar1:1", "16", "--offset", "1048568").splitlines() == [
        "000ffff8  00 00 00 00 00 00 00 68 65 6c 6c 6f 00 00 00 00  .......hello...."
    ]
    assert (
        cli("write", "lpar1:1", "-", "--offset", "1M", "--flush", stdin=b"\xff\n") == "2 bytes at 0x100000, flushed\n"
    )
    assert cli("read", "lpar1:1", "3", "--offset", "1M") == "00100000  ff 0a 6c" + " " * 41 + "..l\n"
    assert cli("write", "lpar1:1", "hex:00 01", "--labels", "--offset", "4094") == "2 bytes at 0xffe\n"
    assert cli("read", "lpar1:1", "2", "--labels", "--offset", "4094").startswith("00000ffe  00 01 ")
    large, back = tmp_path / "large", tmp_path / "back"
    large.write_bytes(os.urandom(300_001))
    cli("write", "lpar1:1", f"@{large}", "--offset", "7")
    assert cli("read", "lpar1:1", "300001", "--offset", "7", "--output", str(back)) == "300001 bytes\n"
    assert back.read_bytes() == large.read_bytes()
    assert cli("read", "lpar1:1", "64M", "-o", str(back)) == f"{4 << 20} bytes\n", "the device is smaller"
    assert cli("read", "lpar1:1", "16", "--offset", "4M") == ""
    assert cli("read", "lpar1:1", "0") == ""
    assert cli("write", "lpar1:1", "") == "0 bytes at 0x0\n"


def test_flush(cli: Cli) -> None:
    for number in range(3):
        assert cli("flush", f"lpar1:{number}") == "flushed\n"


def test_health_and_its_injection(cli: Cli) -> None:
    shown = dict(line.split(maxsplit=1) for line in cli("health", "lpar1:1").splitlines())
    assert (shown["health"], shown["unarmed"], shown["fuel_gauge"], shown["flags"]) == ("healthy", "false", "100", "-")
    unarmed = json.loads(cli("health", "lpar1:2", "--json"))
    assert (unarmed["unarmed"], unarmed["flags"], unarmed["fuel_gauge"]) == (True, "not_armed", None)
    assert cli("inject", "lpar1:1", "--health", "0x0400000000000000") == "lpar1:1: armed\n"
    assert json.loads(cli("health", "lpar1:1", "--json"))["health"] == "fatal"
    cli("inject", "lpar1:1", "--health", "0x0400000000000000/0")
    assert json.loads(cli("health", "lpar1:1", "--json"))["health"] == "healthy"
    cli("inject", "lpar1:1", "--health", "own")


def test_statistics(cli: Cli) -> None:
    lines = [line.split() for line in cli("stats", "lpar1:1").splitlines()]
    assert len(lines) == 16
    found = json.loads(cli("stats", "lpar1:1", "--json"))
    assert list(found) == [name for name, _ in lines]
    assert found["MemLife"] == 100
    assert cli.refusal("stats", "lpar1:0", code=1) == (
        'lpar1:0 has no statistics (PERF_STATS: ENOENT); profile "phyp" has'
    )


@pytest.mark.parametrize(
    ("option", "value", "words", "says", "level"),
    [
        ("--write", "ENOSPC", ["write", "lpar1:1", "x"], "write: ENOSPC", "unhealthy"),
        ("--write", "short", ["write", "lpar1:1", "xyz"], "write: EIO", "unhealthy"),
        ("--read", "eio", ["read", "lpar1:1", "9"], "read: EIO", "critical"),
        ("--flush", "EIO", ["flush", "lpar1:1"], "FLUSH: EIO", "unhealthy"),
        ("--hcall", "H_SCM_HEALTH=H_HARDWARE", ["health", "lpar1:1"], "CALL: ENXIO", "healthy"),
        ("--hcall", "h_scm_flush=-1", ["write", "lpar1:1", "x", "--flush"], "FLUSH: EIO", "healthy"),
    ],
)
def test_failures_are_injected_and_told(
    cli: Cli, option: str, value: str, words: list[str], says: str, level: str
) -> None:
    assert cli("inject", "lpar1:1", option, value) == "lpar1:1: armed\n"
    assert cli.refusal(*words, code=1) == says
    cli(*words)
    assert json.loads(cli("health", "lpar1:1", "--json"))["health"] == level
    cli("inject", "lpar1:1", "--health", "own")


def test_failures_happen_as_often_as_told_in_blocks_and_labels_together(cli: Cli) -> None:
    cli("inject", "lpar1:1", "--read", "EIO", "--count", "2")
    assert cli.refusal("read", "lpar1:1", "1", code=1) == "read: EIO"
    assert cli.refusal("read", "lpar1:1", "1", "--labels", code=1) == "GET_CONFIG_DATA: EINVAL"
    cli("read", "lpar1:1", "1")
    cli("read", "lpar1:1", "1", "--labels")
    cli("inject", "lpar1:1", "--health", "own")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("show lpar9", 2, "no partition 'lpar9' in lab scm; there are: lpar1, lpar2, lpar3"),
        ("show lpar1:3", 2, "SCM device 'lpar1:3': lpar1 has 0 to 2"),
        ("flush lpar1:-1", 2, "SCM device 'lpar1:-1': lpar1 has 0 to 2"),
        ("health lpar1:x", 2, "SCM device 'lpar1:x': lpar1 has 0 to 2"),
        ("stats lpar1:", 2, "SCM device 'lpar1:': lpar1 has 0 to 2"),
        ("labels lpar3", 2, "SCM device 'lpar3': lpar3 has none: it has no [[partition.scm]]"),
        ("show lpar1 --dtb /no/such/file", 2, "--dtb /no/such/file: No such file or directory"),
        ("read lpar1 1 -o /no/such/file", 2, "--output /no/such/file: No such file or directory"),
        ("read lpar1 x", 2, "LENGTH: 'x': expected a number such as 4096"),
        ("read lpar1 64M1", 2, "LENGTH: '64M1': expected a number"),
        ("read lpar1 65M", 2, "LENGTH 65M: expected at most 64MiB in one command"),
        ("read lpar1 1 --offset -4", 2, "--offset: '-4': expected a number"),
        ("read lpar1 1 --offset 18446744073709551616", 2, "--offset: '18446744073709551616': expected at most 64 bits"),
        ("read lpar1 2 --labels --offset 131071", 1, "GET_CONFIG_DATA: EINVAL"),
        ("read lpar1 2 --labels --offset 8G", 1, "GET_CONFIG_DATA: 2 bytes at 0x200000000: EINVAL"),
        ("write lpar1 abc --labels --offset 131070", 1, "SET_CONFIG_DATA: EINVAL"),
        ("write lpar1 x --offset 2M", 1, "write at 0x200000: ENOSPC"),
        ("write lpar1 x --offset 0xffffffffffffffff", 1, "write at 0xffffffffffffffff: ENOSPC"),
        ("write lpar1 hex:xyz", 2, "message 'hex:xyz': expected pairs of hex digits after 'hex:'"),
        ("write lpar1 @/no/such/file", 2, "message @/no/such/file: No such file or directory"),
        ("write lpar1:2 x", 1, "write: EROFS"),
        ("write lpar1:2 x --labels", 1, "SET_CONFIG_DATA: EINVAL"),
        ("write lpar1", 2, "Missing argument 'DATA'"),
        ("flush", 2, "Missing argument"),
        ("nonsense", 2, "No such command 'nonsense'"),
        ("list --lab nope", 3, "lab nope is not running"),
        ("flush lpar2 --timeout 0.5", 3, "lpar2 did not"),
        ("inject lpar1", 2, "nothing to inject: expected --health, --read, --write, --flush or --hcall"),
        ("inject lpar1 --health zz", 2, "--health: 'zz': expected a number"),
        ("inject lpar1 --health 0x10000000000000000", 2, "expected at most 64 bits"),
        ("inject lpar1 --health 1/zz", 2, "--health valid bits: 'zz': expected a number"),
        ("inject lpar1 --write EFOO", 2, "--write 'EFOO': expected an errno such as EIO or ENOSPC"),
        ("inject lpar1 --read short", 2, "--read 'short': expected an errno"),
        ("inject lpar1 --flush 5", 2, "--flush '5': expected an errno"),
        ("inject lpar1 --hcall H_SCM_HEALTH", 2, "expected such as H_SCM_HEALTH=H_HARDWARE"),
        ("inject lpar1 --hcall H_FOO=1", 2, "expected such as H_SCM_HEALTH=H_HARDWARE"),
        ("inject lpar1 --hcall H_SEND_CRQ=1", 2, "expected one of the hcalls of SCM"),
        ("inject lpar1 --hcall H_SCM_HEALTH=9223372036854775808", 2, "expected a return code of 64 bits"),
        ("inject lpar1 --read EIO --count 0", 2, "--count"),
        ("inject lpar1 --read EIO --count 4294967296", 2, "--count"),
        ("inject lpar9 --read EIO", 2, "no partition 'lpar9'"),
    ],
)
def test_wrong_input_is_one_line_and_an_exit_code(cli: Cli, words: str, code: int, says: str) -> None:
    assert says in cli.refusal(*words.split(), code=code)
