"""Hcall numbers against a table that was not made from pvnet's code."""

import json
from pathlib import Path

import pytest

from pvnet.core.errors import LocalError
from pvnet.papr import errno
from pvnet.papr.hcall import (
    CORE_LIMIT,
    HcallOpcode,
    HcallRc,
    is_busy,
    is_function_in_progress,
    is_long_busy,
    long_busy_ms,
    rc_from_register,
    rc_name,
    rc_to_register,
    unsupported_flag_bit,
)

TABLE = json.loads((Path(__file__).parents[1] / "vectors" / "hcall-numbers.json").read_text())
CORE = {name: int(text, 16) for name, text in TABLE["core"].items()}
OUTSIDE = {name: int(text, 16) for name, text in TABLE["outside"].items()}


def test_core_table_has_179_entries_all_multiples_of_four():
    assert len(CORE) == 179
    assert all(number % 4 == 0 for number in CORE.values())
    ours = {member.name: int(member) for member in HcallOpcode if member < CORE_LIMIT}
    assert ours == CORE


def test_opcodes_outside_the_core_range():
    assert {member.name: int(member) for member in HcallOpcode if member >= CORE_LIMIT} == OUTSIDE
    assert len(OUTSIDE) == 18


def test_return_codes():
    ours = {name: int(member) for name, member in HcallRc.__members__.items()}
    assert {name: ours[name] for name in TABLE["rc"]} == TABLE["rc"]
    aliases = {
        "H_LONG_BUSY_START_RANGE", "H_LONG_BUSY_END_RANGE", "H_TRACE_PARM_LOPAR", "H_UNSUPPORTED_FLAG_START",
        "H_UNSUPPORTED_FLAG_END", "H_S_PARM", "H_D_PARM", "H_R_PARM", "H_RESCINDEND",
    }  # fmt: skip
    assert set(ours) - set(TABLE["rc"]) == aliases


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("H_DISABLE_AND_GETC", "H_DISABLE_AND_GET"),
        ("H_SCM_MEM_QUERY", "H_SCM_UNBIND_ALL"),
        ("H_SCM_BLOCK_CLEAR", "H_SCM_HEALTH"),
    ],
)
def test_other_spellings_are_the_same_member(alias, name):
    assert HcallOpcode[alias] is HcallOpcode[name]


def test_unknown_opcode_survives():
    assert str(HcallOpcode(0x3E5)) == "HcallOpcode(0x3E5)"
    assert not HcallOpcode(0x3E5).is_known
    assert HcallOpcode(0xFC) is HcallOpcode.H_REG_CRQ


@pytest.mark.parametrize(
    ("rc", "milliseconds"),
    [(9900, 1), (9901, 10), (9902, 100), (9903, 1000), (9904, 10_000), (9905, 100_000), (9906, 1), (0, 1), (-4, 1)],
)
def test_long_busy_hint(rc, milliseconds):
    assert long_busy_ms(rc) == milliseconds
    assert is_long_busy(rc) == (9900 <= rc <= 9905)


def test_busy_codes_are_exactly_seven():
    assert {rc for rc in range(-600, 10_100) if is_busy(rc)} == {1, *range(9900, 9906)}


@pytest.mark.parametrize(("rc", "expected"), [(0xFFFFF, False), (0x100000, True), (0xFFFFFFF, True), (1 << 28, False)])
def test_function_in_progress_range(rc, expected):
    assert is_function_in_progress(rc) is expected


@pytest.mark.parametrize(("rc", "bit"), [(-255, None), (-256, 0), (-300, 44), (-511, 255), (-512, None)])
def test_unsupported_flag(rc, bit):
    assert unsupported_flag_bit(rc) == bit


@pytest.mark.parametrize(
    ("rc", "register"),
    [
        (0, 0), (9901, 9901), (-4, 0xFFFFFFFFFFFFFFFC), (-12, 0xFFFFFFFFFFFFFFF4), (-16, 0xFFFFFFFFFFFFFFF0),
        (-(1 << 63), 1 << 63), ((1 << 63) - 1, (1 << 63) - 1),
    ],
)  # fmt: skip
def test_register_image(rc, register):
    assert rc_to_register(rc) == register
    assert rc_from_register(register) == rc


def test_register_image_refuses_other_widths():
    for rc in (1 << 63, -(1 << 63) - 1):
        with pytest.raises(LocalError, match="signed 64-bit"):
            rc_to_register(rc)
    for register in (-1, 1 << 64):
        with pytest.raises(LocalError, match="unsigned 64-bit"):
            rc_from_register(register)


def test_names_for_people():
    assert rc_name(-4) == "H_PARAMETER (-4)"
    assert rc_name(4711) == "rc 4711"
    assert errno.name_of(-77) == errno.name_of(77) == "EBADFD"
    assert errno.name_of(999) == "errno 999"


def test_errno_numbers_are_those_of_linux():
    assert (errno.EPERM, errno.EINTR, errno.EIO, errno.EAGAIN, errno.ENOMEM, errno.EFAULT) == (1, 4, 5, 11, 12, 14)
    assert (errno.EBUSY, errno.ENODEV, errno.EINVAL, errno.EBADFD, errno.ENOBUFS) == (16, 19, 22, 77, 105)
