"""Device trees: typed properties, the flattened form against dtc, and readers that survive anything."""

import contextlib
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.core.errors import LocalError, WireError
from pvnet.papr.devicetree import (
    DEPTH_LIMIT,
    Node,
    Property,
    empty,
    flatten,
    text,
    u32,
    u64,
    unflatten,
)

TREE = Node(
    "",
    (u32("#address-cells", 2), u32("#size-cells", 2), text("model", "pvnet")),
    (
        Node("chosen", (text("bootargs", ""), empty("linux,quiet"))),
        Node(
            "memory@0",
            (
                text("device_type", "memory"),
                u64("reg", 0, 0x10000000),
                text("compatible", "a", "bc"),
                Property("x", b"1"),
            ),
        ),
    ),
)  # fmt: skip


def test_typed_access():
    memory = TREE.child("memory@0")
    assert memory is not None
    assert memory.text("device_type") == "memory"
    assert memory.text("compatible") == "a"
    assert memory.text("x") is None
    assert Node("n", (Property("b", b"\xff\0"),)).text("b") is None
    assert TREE.u32("#address-cells") == 2
    assert memory.u32("reg") is None
    assert memory.u64("reg") is None
    assert Node("n", (u64("size", 1 << 40),)).u64("size") == 1 << 40
    assert TREE.u64("nothing") is None
    assert TREE.u32("nothing") is None
    assert TREE.text("nothing") is None
    assert TREE.child("nothing") is None
    assert TREE.children[0].has("linux,quiet")
    assert [path for path, _ in TREE.walk()] == ["/", "/chosen", "/memory@0"]


def test_names_that_cannot_be():
    for name in ("", "a b", "ä", "a/b"):
        with pytest.raises(LocalError, match="property name"):
            Property(name)
    with pytest.raises(LocalError, match="node name"):
        Node("a/b")
    with pytest.raises(LocalError, match="used twice"):
        Node("n", (u32("a", 1), u32("a", 2)))
    with pytest.raises(LocalError, match="used twice"):
        Node("n", (), (Node("a"), Node("a")))


def test_bytes_of_the_smallest_tree():
    assert flatten(Node("")) == bytes.fromhex(
        "d00dfeed 00000048 00000038 00000048 00000028 00000011 00000010 00000000 00000000 00000010"
        "0000000000000000 0000000000000000 00000001 00000000 00000002 00000009"
    )


@pytest.mark.needs("dtc")
def test_dtc_accepts_it(tmp_path):
    """The device-tree compiler reads our blob without a word, and we read the one that it makes of its own output."""
    run = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts", "-"], input=flatten(TREE), capture_output=True, check=True, timeout=30
    )
    assert run.stderr == b""
    source = run.stdout.decode()
    assert 'model = "pvnet";' in source
    assert "reg = <0x00 0x00 0x00 0x10000000>;" in source
    assert "linux,quiet;" in source
    again = subprocess.run(
        ["dtc", "-I", "dts", "-O", "dtb", "-"], input=run.stdout, capture_output=True, check=True, timeout=30
    )
    assert unflatten(again.stdout) == TREE


_names = st.text(st.sampled_from("abz09,._+*#?-"), min_size=1, max_size=12)
_properties = st.dictionaries(_names, st.binary(max_size=20), max_size=4).map(
    lambda d: tuple(Property(name, value) for name, value in d.items())
)


def _nodes(children):
    return st.tuples(_properties, st.dictionaries(_names, children, max_size=3)).map(
        lambda t: (t[0], tuple(Node(name, *parts) for name, parts in t[1].items()))
    )


_trees = st.recursive(_nodes(st.nothing()), _nodes, max_leaves=8).map(lambda parts: Node("", *parts))


@settings(max_examples=60, deadline=None)
@given(_trees, st.binary(max_size=5))
def test_round_trip(tree, tail):
    assert unflatten(flatten(tree) + tail) == tree


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.integers(0, 400))
def test_damaged_blobs_are_wire_errors(changes, length):
    blob = bytearray(flatten(TREE))
    for at, value in changes:
        blob[at % len(blob)] = value
    with contextlib.suppress(WireError):
        unflatten(bytes(blob[: length or None]))


def header(**changes):
    fields = {
        "magic": 0xD00DFEED, "total": 0x48, "body": 0x38, "names": 0x48, "reserve": 0x28, "version": 17,
        "compatible": 16, "cpu": 0, "names_size": 0, "body_size": 0x10,
    } | changes  # fmt: skip
    return struct.pack(">10I", *fields.values()) + flatten(Node(""))[40:]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"magic": 1}, "magic 0x1"),
        ({"version": 15}, "version 15"),
        ({"version": 18, "compatible": 18}, "version 18"),
        ({"total": 0x49}, "total size"),
        ({"total": 4}, "total size"),
        ({"body": 0x3A}, "structure block"),
        ({"body_size": 0x14}, "structure block"),
        ({"names": 0x49}, "strings block"),
        ({"body_size": 0xC}, "ends within 4 bytes"),
    ],
)
def test_bad_headers(changes, match):
    with pytest.raises(WireError, match=match):
        unflatten(header(**changes))


def test_good_headers():
    assert unflatten(header()) == Node("")
    assert unflatten(header(version=16, body_size=0)) == Node("")
    assert unflatten(header(version=18)) == Node("")
    with pytest.raises(WireError, match="a header of 40 bytes"):
        unflatten(header()[:39])


def blob(*words, names=b""):
    body = b"".join(w if isinstance(w, bytes) else struct.pack(">I", w) for w in words)
    size = 0x38 + len(body)
    head = struct.pack(">10I", 0xD00DFEED, size + len(names), 0x38, size, 0x28, 17, 16, 0, len(names), len(body))
    return head + bytes(16) + body + names


BEGIN, END_NODE, PROP, NOP, END = 1, 2, 3, 4, 9
EMPTY_NAME = b"\0\0\0\0"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ((END,), "token 0x9"),
        ((7,), "token 0x7"),
        ((END_NODE,), "token 0x2"),
        ((PROP, 0, 0), "token 0x3"),
        ((BEGIN, EMPTY_NAME, END), "token 0x9"),
        ((BEGIN, EMPTY_NAME, END_NODE, BEGIN, EMPTY_NAME), "after the root node"),
        ((BEGIN, EMPTY_NAME, BEGIN, b"a\0\0\0", END_NODE, PROP, 0, 0), "token 0x3"),
        ((BEGIN, b"abcd"), "node name"),
        ((BEGIN, b"\xffb\0\0", END_NODE, END), "node name"),
        ((BEGIN, b"a b\0", END_NODE, END), "node name"),
        ((BEGIN, EMPTY_NAME, PROP, 0xFFFFFFFF, 0), "ends within"),
        ((BEGIN, EMPTY_NAME, PROP, 0, 9), "property name"),
        ((BEGIN, EMPTY_NAME, PROP, 0, 2), "property name"),
        ((BEGIN, EMPTY_NAME, PROP, 0, 5), "property name ' '"),
        ((BEGIN, EMPTY_NAME, PROP, 0, 6), "property name"),
        ((BEGIN, EMPTY_NAME, PROP, 0, 0, PROP, 0, 0, END_NODE, END), "used twice"),
        ((BEGIN, EMPTY_NAME) * (DEPTH_LIMIT + 1), "at most 64 deep"),
    ],
)
def test_bad_structures(words, match):
    with pytest.raises(WireError, match=match):
        unflatten(blob(*words, names=b"p\0\xffq\0 \0x"))


def test_no_operations_are_skipped():
    assert unflatten(blob(NOP, BEGIN, EMPTY_NAME, NOP, END_NODE, NOP, END)) == Node("")


def test_a_name_without_end():
    with pytest.raises(WireError, match="property name"):
        unflatten(blob(BEGIN, EMPTY_NAME, PROP, 0, 0, names=b"p"))
