"""Decoding is total: every body, every mutation of it, and any bytes at all give something that can be shown."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from decode_rig import VECTORS, decoded, envelope, record
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.decode import FIELDS, Decoded, decode
from pvnet.capture.decode_body import _is_list
from pvnet.capture.decode_table import LAYER_OF_BODY, is_map
from pvnet.capture.filter import Filter
from pvnet.capture.model import LINKTYPE_ENVELOPE, LINKTYPE_ETHERNET, LINKTYPE_HCALL, LINKTYPE_MEMORY
from pvnet.capture.pairs import Pairs
from pvnet.capture.show_text import LineWriter, to_json, tree_lines
from pvnet.capture.summary import Summary
from pvnet.capture.violations import Violations
from pvnet.pb.v1.device_pb2 import DeviceIo, DeviceReply
from pvnet.pb.v1.envelope_pb2 import Envelope, LinkAck, LinkReset, Refusal
from pvnet.pb.v1.lifecycle_pb2 import Lifecycle
from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.pb.v1.mdev_pb2 import MdevClose, MdevIrq, MdevOpen, MdevReply, MdevTransfer

NAMES = [
    "opcode",
    "hcall",
    "args",
    "rc",
    "outs",
    "after",
    "note",
    "from",
    "crq",
    "crq_in",
    "app",
    "hmc_index",
    "length",
    "data_head",
    "observe",
    "raised",
    "slots",
    "mark",
    "lost",
    "event",
    "values",
    "took",
    "meta",
    "direction",
]
LINK_TYPES = (LINKTYPE_ENVELOPE, LINKTYPE_ETHERNET, LINKTYPE_HCALL, LINKTYPE_MEMORY, 252)


def show(item: Decoded) -> None:
    """Everything that is done to a decoded record."""
    watch, totals = Violations(), Summary()
    wrong = watch.feed(item)
    totals.feed(item, watch.matched, wrong)
    Pairs().feed(item)
    assert "\n" not in LineWriter().line(item, watch.matched, wrong)
    assert not any("\n" in text for text in [*tree_lines(item), *totals.lines()])
    json.dumps([to_json(item, watch.matched, wrong), totals.to_json()])
    assert Filter.parse("length >= 0").matches(item)


def filled(message: object, depth: int = 0) -> None:
    """Set every field of a message to something."""
    descriptor = message.DESCRIPTOR  # type: ignore[attr-defined]
    for field in descriptor.fields:
        if is_map(field):
            getattr(message, field.name)["key"] = "value"
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < 3:
                inner = getattr(message, field.name)
                filled(inner.add() if _is_list(field) else inner, depth + 1)
        else:
            value = {FieldDescriptor.TYPE_STRING: "text", FieldDescriptor.TYPE_BYTES: b"0123456789abcdef"}.get(
                field.type, 1
            )
            if _is_list(field):
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


@pytest.mark.parametrize("body", sorted(LAYER_OF_BODY))
def test_every_field_of_every_body_is_in_the_table(body: str) -> None:
    made = envelope(correlation=5, seq=3)
    getattr(made, body).SetInParent()
    filled(getattr(made, body))
    item = decode(record(made.SerializeToString()))
    assert item.kind == body
    assert item.has(LAYER_OF_BODY[body]) or body == "net_frames"
    assert item.summary
    for field in item.fields():
        assert field.name in FIELDS, field.name
        assert field.text == FIELDS[field.name].text(field.value)
    show(item)


@pytest.mark.parametrize(
    ("item", "summary"),
    [
        (decoded(device_io=DeviceIo(operation=1, path="/dev/ibmvmc")), "OPEN /dev/ibmvmc"),
        (decoded(device_io=DeviceIo(operation=2, command=0x4008CC00)), "IOCTL handle 0 SETHMCID (0x4008cc00)"),
        (decoded(device_io=DeviceIo(operation=3, handle=3, count=9)), "READ handle 3, up to 9 bytes"),
        (decoded(device_io=DeviceIo(operation=4, handle=3, data=b"ab")), "WRITE handle 3, 2 bytes [6162]"),
        (decoded(device_io=DeviceIo(operation=5, handle=3)), "POLL handle 3"),
        (decoded(device_io=DeviceIo(operation=7, interrupts=8)), "INTERRUPT of call 8"),
        (decoded(device_reply=DeviceReply(result=-5)), "-EIO"),
        (decoded(mdev_open=MdevOpen(name="uuid")), "open uuid"),
        (decoded(mdev_reply=MdevReply(result=16, text="in use")), "EBUSY in use"),
        (decoded(mdev_reply=MdevReply(session=2)), "0 session 2"),
        (decoded(mdev_irq=MdevIrq(session=2, target=7)), "session 2 irq target 7"),
        (decoded(mdev_close=MdevClose(session=2, moved_to="b")), "session 2 close, moved to b"),
        (decoded(mdev_transfer=MdevTransfer(step=2, transfer=9, data=b"abc")), "transfer 9 DATA 3 bytes at 0"),
        (decoded(management=Management(power_on={"name": "lpar2"})), "power_on name=lpar2"),
        (decoded(management=Management(mdev={"verb": 4, "name": "u"})), "mdev verb=CREATE name=u"),
        (decoded(management=Management(token=1)), "no command"),
        (decoded(management_reply=ManagementReply(status=1, text="no lpar9")), "NOT_FOUND no lpar9"),
        (decoded(management_reply=ManagementReply(status_json="{}")), "OK 2 bytes of JSON"),
        (decoded(management_reply=ManagementReply(partitions=[{}])), "OK 1 partitions"),
        (decoded(lifecycle=Lifecycle(phase=4, role="partition", text="killed")), "DEATH partition: killed"),
        (decoded(link_ack=LinkAck(), ack=4, ack_stream=1), "ack 4 of stream 1"),
        (decoded(link_reset=LinkReset(), stream=2), "reset, stream 2"),
        (decoded(refusal=Refusal(text="no such kind")), "refused: no such kind"),
    ],
)  # fmt: skip
def test_one_line_of_each_body(item: Decoded, summary: str) -> None:
    assert item.summary == summary


def test_envelopes_that_cannot_be_understood() -> None:
    assert decode(record(b"\xff\xff")).problems == ("not a pvnet.v1.Envelope",)
    assert decode(record(Envelope(schema=1).SerializeToString())).problems == ("no body that is known here",)
    later = decode(record(envelope(link_ack=LinkAck()).SerializeToString().replace(b"\x08\x01", b"\x08\x09", 1)))
    assert later.problems == ("schema version 9: version 1 is known here",)
    cut = decode(record(b"\x08\x01\x12", original=100))
    assert (cut.kind, cut.problems, cut.has("cut")) == ("unknown", (), True)
    assert decode(record(b"\0" * 40, 252)).summary.startswith("link type 252")


def test_an_enumeration_of_a_later_version_is_a_number() -> None:
    item = decoded(lifecycle=Lifecycle(phase=77))  # type: ignore[arg-type]
    assert item.summary.startswith("77")
    assert item.get("lifecycle.phase") == 77


def bodies() -> Iterator[bytes]:
    for body in sorted(LAYER_OF_BODY):
        made = envelope(correlation=5, seq=3)
        getattr(made, body).SetInParent()
        filled(getattr(made, body))
        yield made.SerializeToString()
    yield from (VECTORS / "linux-6.1-vmc-session.jsonl").read_bytes().splitlines()[:12]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(LINK_TYPES), st.binary(max_size=200))
def test_any_bytes(link_type: int, data: bytes) -> None:
    show(decode(record(data, link_type)))


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_any_mutation(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(list(bodies()))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    link_type = LINKTYPE_HCALL if raw[:1] == b"{" else data.draw(st.sampled_from(LINK_TYPES))
    show(decode(record(bytes(raw[: cut or None]), link_type)))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.text(max_size=5))
        | st.dictionaries(st.text(max_size=5), st.text(max_size=5)) | st.sampled_from(["0x108", "partition", "write"]),
        min_size=1,
    )
)  # fmt: skip
def test_any_line(values: dict[str, object]) -> None:
    item = decode(record(json.dumps(values).encode(), LINKTYPE_HCALL))
    assert not any("does not decode" in text for text in item.problems), item.problems
    show(item)
