"""The points that reviewers of Linux' SCM hcalls raised, and abuse without another test: docs/scm.md, 6 and 11."""

from __future__ import annotations

import re
import tokenize
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scm_hv_rig import CONFIG_P, CONFIG_Q, DEVICE_D, EMPTY, MEMORY, A, B, D, Rig

from pvnet.papr.errno import EIO
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.signatures import SIGNATURES
from pvnet.scm.calls import OPCODES, BindMem, Health, PerformanceStats, QueryBlock, QueryHealth
from pvnet.scm.device import device_node
from pvnet.scm.hypervisor_io import ScmHypervisorConfig
from pvnet.scm.profiles import PHYP, QEMU, ScmProfile
from pvnet.scm.stats import encode_stats

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCM = (ROOT / "docs" / "scm.md").read_text()
TEN = sorted(OPCODES.values())
BOTH = ScmHypervisorConfig((*CONFIG_Q.devices, DEVICE_D), CONFIG_Q.connectors, QEMU)
CONFIGS = pytest.mark.parametrize("config", [CONFIG_Q, CONFIG_P, BOTH], ids=["qemu", "phyp", "both"])


@pytest.mark.parametrize("opcode", [0, 1, 2, 0x3E5, 0x404, 0x4A0, 0x10000, 1 << 63, (1 << 64) - 4])
@CONFIGS
def test_drafts_are_not_served(config: ScmHypervisorConfig, opcode: int) -> None:
    """Point 6: numbers that only a proposal had (0x4a0, a flush), or that nobody has, are not supported."""
    assert Rig(config).raw(opcode, D, 0, 8) == (HcallRc.H_FUNCTION, ())


def test_every_switch_of_a_profile_is_explained() -> None:
    """Point 7: each field is in the generated table; each topic has a decision for both profiles and a reason."""
    section = SCM.partition("### 3.13 ")[2].partition("\n## ")[0]
    for field in fields(ScmProfile):
        assert field.name in {"name", "calls"} or f"| `{field.name}` |" in section
    for opcode in PHYP.calls ^ QEMU.calls:
        assert f"| `{HcallOpcode(opcode).name}` | H_FUNCTION | yes |" in section
    decisions = section.partition("| topic |")[2].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in decisions if line.startswith("|")]
    assert len(rows) >= 11, "the eleven topics on which the sources disagree"
    assert [row for row in rows if len(row) != 5 or not all(row)] == []


def test_words() -> None:
    """Points 10, 11, 14: a vendor's name is a profile's name only; nothing is called compliant; HVSC is spelt so."""
    for document in DOCUMENTS:
        text = document.read_text()
        assert re.findall(r"(?<![`\"])\bphyp\b|\bPHYP\b", text) == [], document.name
        assert not re.search(r"PAPR[ -]compliant|\bHVCS\b", text, re.IGNORECASE), document.name
        for word in re.finditer(r"\bcompliant\b", text):
            assert "not call it" in text[: word.start()][-30:], document.name
    assert "HVSC" in SCM
    for path in [*(ROOT / "pvnet").rglob("*.py"), *(ROOT / "services").rglob("*.py")]:
        prose = [t.string for t in tokens(path) if t.type in {tokenize.COMMENT, tokenize.STRING}]
        assert [text for text in prose if re.search(r"(?<!`)\bPHYP\b", text)] == [], path


def tokens(path: Path) -> list[tokenize.TokenInfo]:
    with path.open("rb") as file:
        return list(tokenize.tokenize(file.readline))


@CONFIGS
def test_problem_state_is_refused_before_anything_else(config: ScmHypervisorConfig) -> None:
    """Point 13, abuse 14: whatever the registers hold, and also for opcodes that do not exist."""
    rig = Rig(config)
    for opcode in (*TEN, 0, 0x3E5):
        for args in ((), (A, 0, 8), (D, 9, 9, 5, 1), ((1 << 64) - 1,) * 9, (1 << 64,)):
            assert rig.raw(opcode, *args, problem=True) == (HcallRc.H_PRIVILEGE, ())


NUMBERS = (*range(5), 8, 9, 16, 32, 0x110, 0x1000, 0xFFF8, 0x1FFF8, 0x20000, 1 << 63, (1 << 64) - 1)
TOKENS = (0x1001, 0x1002, 0x2001, 0x3001, 0x4001)
PLACES = (DEVICE_D.address, DEVICE_D.address + DEVICE_D.block_size, 0x100000000, 0x110000000, (1 << 64) - (1 << 28))
REGISTER = st.sampled_from((*NUMBERS, *TOKENS, *PLACES, A, B, EMPTY, D, 0x80000010))
CALLS = st.tuples(st.sampled_from(TEN), st.lists(REGISTER, max_size=6).map(tuple), st.sampled_from([None, 0, EIO]))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([CONFIG_Q, CONFIG_P, BOTH]), st.lists(CALLS, max_size=30))
def test_every_code_that_is_given_is_documented(
    config: ScmHypervisorConfig, calls: list[tuple[HcallOpcode, tuple[int, ...], int | None]]
) -> None:
    """Point 15: the table of 1.4 lists all return codes of each hcall."""
    rig = Rig(config)
    rig.memory.write(0x1000, encode_stats((), 0))
    for opcode, args, flushed in calls:
        if flushed is not None and rig.flushes:
            rig.finish_flush(flushed)
        rc, _ = rig.raw(opcode, *args)
        assert rc in SIGNATURES[opcode].rcs, (opcode, args)


def test_the_node_says_which_blocks_there_are() -> None:
    """Point 17: what the node calls the last block can be bound and asked for, the next one cannot."""
    node = device_node(DEVICE_D)
    blocks, size = node.u64("ibm,number-of-blocks"), node.u64("ibm,block-size")
    assert blocks is not None
    assert size is not None
    rig = Rig(CONFIG_P)
    assert rig.rc(BindMem(D, blocks, 1)) == HcallRc.H_P3
    assert rig.rc(QueryBlock(D, blocks)) == HcallRc.H_P2
    assert rig.call(BindMem(D, blocks - 2, 2)) == (0, (D, DEVICE_D.address + (blocks - 2) * size, 2))
    assert rig.call(QueryBlock(D, blocks - 1)) == (0, (DEVICE_D.address + (blocks - 1) * size,))


def test_health_bits_are_numbered_from_the_most_significant() -> None:
    """Point 18: in the table, and in what the hypervisor answers."""
    rows = re.findall(r"^\| (\d+) \| `(0x[0-9a-f]{16})` \| `(\w+)` \|", SCM, re.MULTILINE)
    assert [(int(number), int(value, 16)) for number, value, _ in rows] == [(n, 1 << (63 - n)) for n in range(10)]
    assert [Health[name.upper()].value for _, _, name in rows] == [int(value, 16) for _, value, _ in rows]
    assert Rig(CONFIG_Q).call(QueryHealth(B)) == (0, (1 << 63, 1 << 63))


WRONG = [
    (0, 0x20, b"", HcallRc.H_P2),
    (0x1000, 0, b"", HcallRc.H_P3),
    (0x1000, 15, b"", HcallRc.H_P3),
    (MEMORY, 0x20, b"", HcallRc.H_P2),
    (MEMORY - 0x10, 0x20, b"", HcallRc.H_P2),
    ((1 << 64) - 0x10, 0x20, b"", HcallRc.H_P2),
    (0x1000, (1 << 64) - 1, b"", HcallRc.H_P2),
    (0x1000, 0x20, b"SCMSTATZ" + bytes(8), HcallRc.H_P2),
    (0x1000, 0x20, b"SCMSTATS" + bytes(8), HcallRc.H_P2),
    (0x1000, 0x10F, encode_stats(()), HcallRc.H_P3),
    (0x1000, 0x1F, encode_stats((), 1), HcallRc.H_P3),
    (0x1000, 0x21, encode_stats((), 1), HcallRc.H_P3),
    (0x1000, 0x20, encode_stats((), 0xFFFFFFFF), HcallRc.H_P3),
    (0x1000, 16 + 16 * 1025, encode_stats((), 1025), HcallRc.H_P3),
    (0x1000, 0x20, encode_stats([(b"MemLife\0", 0)]), HcallRc.H_PARTIAL),
    (0x1000, 0x20, encode_stats([(b"\xff" * 8, 0)]), HcallRc.H_PARTIAL),
]


@pytest.mark.parametrize("is_mapped", [True, False])
@pytest.mark.parametrize(("address", "length", "request_bytes", "rc"), WRONG)
def test_statistics_buffers_that_are_wrong(
    is_mapped: bool, address: int, length: int, request_bytes: bytes, rc: HcallRc
) -> None:
    """Abuse 13: refused in the order of 3.10, and the partition's memory is as it was."""
    rig = Rig(CONFIG_P, mapped=is_mapped)
    rig.memory.write(0x1000, request_bytes.ljust(0x200, b"\xee"))
    before = rig.memory.read(0, MEMORY)
    answered, outs = rig.call(PerformanceStats(D, address, length))
    assert (answered, outs) == (rc, (1,) if rc == HcallRc.H_PARTIAL else ())
    assert rig.memory.read(0, MEMORY) == before, "an unknown id keeps the value 0"
