import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import ConfigError
from pvnet.papr.hcall import HcallOpcode, HcallRc
from pvnet.papr.signatures import SIGNATURES, continued, describe, parse_arguments, parse_number, signature_of
from pvnet.scm.calls import OPCODES

REG = SIGNATURES[HcallOpcode.H_REG_CRQ]
REQUEST = SIGNATURES[HcallOpcode.H_REQUEST_VMC]


def test_the_table():
    assert {s.name: len(s.inputs) for s in SIGNATURES.values()} == {
        "H_REG_CRQ": 3, "H_FREE_CRQ": 1, "H_VIO_SIGNAL": 2, "H_SEND_CRQ": 3, "H_ENABLE_CRQ": 1, "H_COPY_RDMA": 5,
        "H_REQUEST_VMC": 0, "H_PUT_TCE": 3, "H_GET_TCE": 2, "H_PUT_TCE_INDIRECT": 4, "H_STUFF_TCE": 4,
        "H_SCM_READ_METADATA": 3, "H_SCM_WRITE_METADATA": 4, "H_SCM_BIND_MEM": 5, "H_SCM_UNBIND_MEM": 4,
        "H_SCM_UNBIND_ALL": 3, "H_SCM_QUERY_BLOCK_MEM_BINDING": 2, "H_SCM_QUERY_LOGICAL_MEM_BINDING": 1,
        "H_SCM_HEALTH": 1, "H_SCM_PERFORMANCE_STATS": 3, "H_SCM_FLUSH": 2,
    }  # fmt: skip
    for opcode, signature in SIGNATURES.items():
        assert signature.opcode is opcode
        assert signature.rcs[0] is HcallRc.H_SUCCESS
        assert len(set(signature.rcs)) == len(signature.rcs)
        names = [argument.name for argument in signature.inputs]
        assert len(set(names)) == len(names)
        assert signature.summary
    assert [argument.name for argument in REQUEST.outputs] == ["drc"]
    assert REG.usage == "H_REG_CRQ UNIT QUEUE LENGTH"


@pytest.mark.parametrize("name", ["H_REG_CRQ", "h_reg_crq", "reg_crq", "0xfc", "252", " H_REG_CRQ "])
def test_found_by_name_or_number(name):
    assert signature_of(name) is REG


@pytest.mark.parametrize("name", ["H_NOPE", "", "0x104k", "0x3", "0755", "-4"])
def test_not_found(name):
    with pytest.raises(ConfigError, match="expected one of H_COPY_RDMA, H_ENABLE_CRQ"):
        signature_of(name)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("4096", 4096), ("0x1000", 4096), ("0X1F", 31), ("0o10000", 4096), ("0b101", 5), ("4k", 4096),
        ("4K", 4096), ("4KiB", 4096), ("16M", 1 << 24), ("1G", 1 << 30), ("0x10k", 16384), ("1_000", 1000),
        (" 7 ", 7), ("0xffffffffffffffff", (1 << 64) - 1),
    ],
)  # fmt: skip
def test_numbers(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["", "abc", "0x", "-1", "1.5", "4T", "0755", "1__0", "0x_", "k"])
def test_no_numbers(text):
    with pytest.raises(ConfigError, match=r"length: .*expected a number such as 4096"):
        parse_number(text, "length")


def test_too_wide():
    for text in ("0x10000000000000000", "17179869184G"):
        with pytest.raises(ConfigError, match="at most 64 bits"):
            parse_number(text)


@pytest.mark.parametrize(
    "words",
    [
        ["0x30000002", "0x1000", "4k"],
        ["unit=0x30000002", "0x1000", "4k"],
        ["0x1000", "4k", "unit=0x30000002"],
        ["LENGTH=4096", "0x30000002", "queue=0x1000"],
    ],
)
def test_positional_and_named(words):
    assert parse_arguments(REG, words) == (0x30000002, 0x1000, 0x1000)


def test_no_arguments():
    assert parse_arguments(REQUEST, []) == ()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["1", "2"], "H_REG_CRQ: argument 'length' is missing: its length, a multiple of 4 KiB \\(bytes\\)"),
        (["1", "2", "3", "4"], "H_REG_CRQ: '4' is one argument too many: H_REG_CRQ UNIT QUEUE LENGTH"),
        (["unit=1", "unit=2", "3", "4"], "H_REG_CRQ: argument 'unit' is given twice"),
        (["slot=1"], "H_REG_CRQ: unknown argument 'slot': expected unit, queue, length"),
        (["unit=x", "1", "2"], "H_REG_CRQ unit: 'x': expected a number"),
        (["1", "y", "2"], "H_REG_CRQ queue: 'y': expected a number"),
    ],
)
def test_clear_errors(words, text):
    with pytest.raises(ConfigError, match=text):
        parse_arguments(REG, words)


def test_error_of_a_call_without_arguments():
    with pytest.raises(ConfigError, match="expected no arguments"):
        parse_arguments(REQUEST, ["unit=1"])


def test_describe():
    assert describe(0xFC, (0x30000002, 0x1000, 0x1000)) == "H_REG_CRQ unit=0x30000002 queue=0x1000 length=0x1000"
    assert describe(0x104, (0x2000, 1)) == "H_VIO_SIGNAL unit=0x2000 mode=1"
    assert describe(0x104, (0x2000, 1, 5)) == "H_VIO_SIGNAL unit=0x2000 mode=1 0x5"
    assert describe(0x100, ()) == "H_FREE_CRQ"
    assert describe(0x41C, (1, 2)) == "H_PKS_GET_CONFIG 0x1 0x2"
    assert describe(0x3E5, ()) == "HcallOpcode(0x3E5)"


@given(st.sampled_from(list(SIGNATURES.values())), st.lists(st.integers(0, (1 << 64) - 1), min_size=5, max_size=5))
def test_what_is_described_can_be_typed(signature, numbers):
    args = tuple(numbers[: len(signature.inputs)])
    name, *words = describe(signature.opcode, args).split()
    assert parse_arguments(signature_of(name), words) == args


def test_arguments_with_a_default_may_be_left_out():
    bind = SIGNATURES[HcallOpcode.H_SCM_BIND_MEM]
    assert bind.usage == "H_SCM_BIND_MEM DRC START BLOCKS [TARGET] [TOKEN]"
    assert parse_arguments(bind, ["0x90000000", "0", "4"]) == (0x90000000, 0, 4, (1 << 64) - 1, 0)
    assert parse_arguments(bind, ["token=7", "0x90000000", "0", "4"]) == (0x90000000, 0, 4, (1 << 64) - 1, 7)
    assert parse_arguments(bind, ["1", "2", "3", "4", "5"]) == (1, 2, 3, 4, 5)
    with pytest.raises(ConfigError, match="argument 'blocks' is missing"):
        parse_arguments(bind, ["0x90000000", "start=0"])


def test_the_arguments_of_the_issue():
    read = signature_of("H_SCM_READ_METADATA")
    assert parse_arguments(read, ["drc=0x90000000", "offset=0", "length=8"]) == (0x90000000, 0, 8)
    assert describe(read.opcode, (0x90000000, 0, 8)) == "H_SCM_READ_METADATA drc=0x90000000 offset=0x0 length=0x8"


@pytest.mark.parametrize("struct", OPCODES)
def test_scm_structs_and_signatures_name_the_same_registers(struct):
    signature = SIGNATURES[OPCODES[struct]]
    assert struct._fields == tuple(argument.name for argument in signature.inputs)
    given = {argument.name: argument.default for argument in signature.inputs if argument.default is not None}
    assert struct._field_defaults.items() <= given.items()


def test_a_busy_call_is_repeated_with_the_token():
    flush, bind = HcallOpcode.H_SCM_FLUSH, HcallOpcode.H_SCM_BIND_MEM
    assert continued(flush, (1, 0), (77,)) == (1, 77)
    assert continued(flush, (1,), (77, 5)) == (1, 77)
    assert continued(flush, (1, 3), ()) == (1, 3)
    assert continued(bind, (1, 2, 3, 4, 5, 6), (77, 8, 9)) == (1, 2, 3, 4, 77, 6)
    assert continued(HcallOpcode.H_FREE_CRQ, (1,), (77,)) == (1,)
    assert continued(0x9999, (1,), (77,)) == (1,)
