"""Filter expressions: what they mean, and where they are wrong."""

from __future__ import annotations

import pytest
from decode_rig import decoded, line
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.filter import RECORD_FIELDS, Filter
from pvnet.core.errors import ConfigError
from pvnet.pb.v1.envelope_pb2 import LinkAck
from pvnet.pb.v1.papr_pb2 import CrqEntry, Hcall, HcallReply

OPEN = bytes.fromhex("80020000010000030000000000000000")
ENTRY = decoded("hv", "lpar1", crq_entry=CrqEntry(unit=0x30000000, slot=5, element=OPEN), trace=7)
CALL = decoded(hcall=Hcall(opcode=0x3EC, args=[1, 2, 3]), correlation=4)
REPLY = decoded("hv", "lpar1", hcall_reply=HcallReply(rc=-4), correlation=4)
LINK = decoded(link_ack=LinkAck())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "ECRL"),
        ("vmc.type == OPEN", "E"),
        ("pvnet.vmc.type == open and source == hv", "E"),
        ("vmc.type == 2", "E"),
        ("vmc.type == 0x02 && node == lpar1", "E"),
        ("vmc.type != OPEN", "CRL"),
        ("vmc.type in {CLOSE, OPEN}", "E"),
        ("vmc.type in {CLOSE}", ""),
        ("hcall.opcode == 0x3ec", "C"),
        ("hcall.opcode == H_SCM_BIND_MEM", "C"),
        ("hcall.args == 2", "C"),
        ("hcall.args != 2", "ERL"),
        ("hcall.args > 2", "C"),
        ("hcall.args > 3", ""),
        ("hcall.rc == -4 or hcall.rc == H_BUSY", "R"),
        ("hcall.rc < 0", "R"),
        ("crq", "E"),
        ("hcall", "CR"),
        ("hcall_reply", "R"),
        ("not link", "ECR"),
        ("!link and not (crq or hcall)", ""),
        ("not not link", "L"),
        ("reply", "R"),
        ("reply == true", "R"),
        ("kind ~ reply", "R"),
        ("summary ~ \"slot 5 vmc\"", "E"),
        ("summary ~ 'H_PARA'", "R"),
        ("crq.element ~ 80:02", "E"),
        ("crq.element == 80020000010000030000000000000000", "E"),
        ("crq.irq == false", "E"),
        ("crq.unit & 0x30000000", "E"),
        ("crq.unit & 1", ""),
        ("call == 4", "CR"),
        ("trace == 7", "E"),
        ("number == 1 and length > 10", "ECRL"),
        ("direction == unknown", "ECRL"),
        ("interface == hv/call and node == hv", "ECRL"),
        ('interface == "hv/call"', "ECRL"),
        ("channel == call", "ECRL"),
        ("problem", ""),
        ("comment", ""),
        ("vmc.owner", ""),
        ("vmc.session", "E"),
        ("source == lpar1 || destination == lpar1", "ECRL"),
        ("source == lpar1 and call == 4 or vmc", "EC"),
        ("source == lpar1 and (call == 4 or vmc)", "C"),
    ],
)  # fmt: skip
def test_what_is_wanted(text: str, wanted: str) -> None:
    found = Filter.parse(text)
    assert (
        "".join(name for name, item in zip("ECRL", (ENTRY, CALL, REPLY, LINK), strict=True) if found.matches(item))
        == wanted
    )


def test_time_counts_from_the_first_record() -> None:
    late = Filter.parse("time > 1.5")
    assert not late.matches(decoded(time_ns=10_000_000_000, link_ack=LinkAck()))
    assert not late.matches(decoded(time_ns=11_500_000_000, link_ack=LinkAck()))
    assert late.matches(decoded(time_ns=11_600_000_000, link_ack=LinkAck()))
    exact = Filter.parse("time == 0")
    assert exact.matches(LINK)


def test_an_unknown_value_agrees_with_nothing() -> None:
    item = line(opcode="0x100", args=[None], rc=None)
    for text in ("hcall.rc == 0", "hcall.rc < 1", "hcall.args == 0", "hcall.args ~ 0", "hcall.rc & 1"):
        assert not Filter.parse(text).matches(item), text
    assert Filter.parse("hcall.rc").matches(item)


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("vmc.typ == 2", 1, "vmc.type"),
        ("crq and vmc.type ==", 20, "a value"),
        ("crq crq", 5, "and, or"),
        ("(crq", 5, "closing parenthesis"),
        ("(crq crq", 6, "closing parenthesis"),
        ("crq and", 8, "a field"),
        ("== 5", 1, "a field"),
        ("crq % 5", 5, "a field, an operator"),
        ("call < abc", 8, "a number"),
        ("call in 5", 9, "{"),
        ("call in {5 6}", 12, ", or }"),
        ("call in {5", 11, ", or }"),
        ("call == (", 9, "a value"),
        ("nosuch", 1, "is no field"),
        ('"crq"', 1, "a field"),
        ("(" * 70 + "crq", 64, "at most"),
    ],
)
def test_errors_say_where(text: str, position: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Filter.parse(text)
    assert f"position {position}:" in str(caught.value)
    assert words in str(caught.value)


def test_a_very_long_expression_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 4096"):
        Filter.parse("crq or " * 1000 + "crq")


@pytest.mark.parametrize("name", sorted(RECORD_FIELDS))
def test_every_name_of_a_record_can_be_compared(name: str) -> None:
    assert isinstance(Filter.parse(f"{name} == 1").matches(ENTRY), bool)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["crq", "and", "or", "not", "(", ")", "==", "<", "~", "&", "in", "{", "}", ",", "5", "'a'"]),
        max_size=12,
    )
)
def test_any_row_of_tokens_is_read_or_refused(tokens: list[str]) -> None:
    try:
        found = Filter.parse(" ".join(tokens))
    except ConfigError as error:
        refused = str(error)
    else:
        assert isinstance(found.matches(ENTRY), bool)
        return
    assert refused.startswith("filter: position ")
