"""XML that clients send: read as it is meant, or refused with where and why, never anything else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.novalink.markup import DEPTH_MAX, ELEMENTS_MAX, SIZE_MAX, Element, MarkupError, parse, serialize

NAMES = st.sampled_from(["a", "Name", "PartitionName", "x-y.z"])
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FFFF, exclude_categories=["Cs", "Cn"]), max_size=20)
SPACES = st.sampled_from(["", "urn:one", "urn:two&three"])


ATTRIBUTES = st.dictionaries(NAMES, TEXTS, max_size=2)
LEAVES = st.builds(Element, SPACES, NAMES, ATTRIBUTES, TEXTS)


def _around(children: st.SearchStrategy[Element]) -> st.SearchStrategy[Element]:
    return st.builds(Element, SPACES, NAMES, ATTRIBUTES, TEXTS, st.lists(children, max_size=3).map(tuple))


TREES = st.recursive(LEAVES, _around, max_leaves=10)


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_what_is_written_is_read_again(tree: Element) -> None:
    assert parse(serialize(tree)) == tree


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_markup_error_or_a_document(data: st.DataObject) -> None:
    good = serialize(Element("urn:one", "a", {"b": "c"}, children=(Element("urn:two", "d", text="e" * 20),)))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with suppress(MarkupError):
        parse(bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(MarkupError):
        parse(data + b"\x00<")


BOMB = b"""<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><l>&b;</l>"""


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no element found"),
        (b"<a>", "no element found"),
        (b"<a></b>", "mismatched tag"),
        (b"<a/><b/>", "junk after document element"),
        (b"<p:a/>", "unbound prefix"),
        (b"<a>&nbsp;</a>", "undefined entity"),
        (b"<a b='1' b='2'/>", "duplicate attribute"),
        (BOMB, "a document type declaration"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "a document type declaration"),
        (b'<?xml version="1.0" encoding="ISO-8859-1"?><a/>', "encoding 'ISO-8859-1', expected UTF-8 or UTF-16"),
        (b'<?xml version="1.0" encoding="UTF-7"?><a/>', "encoding 'UTF-7', expected UTF-8 or UTF-16"),
        (b"<a>\xff</a>", "not well-formed"),
        (b"<a>" * (DEPTH_MAX + 1), f"nested more than {DEPTH_MAX} deep"),
        (b"<a>" + b"<b/>" * ELEMENTS_MAX + b"</a>", f"more than {ELEMENTS_MAX} elements"),
        (b"<a " + b" ".join(b"b%d=''" % n for n in range(65)) + b"/>", "more than 64 attributes"),
        (b"<a>" + b" " * SIZE_MAX + b"</a>", f"expected at most {SIZE_MAX}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_refusals(data: bytes, what: str) -> None:
    with pytest.raises(MarkupError, match=r"^line [0-9]+, column [0-9]+: ") as caught:
        parse(data)
    assert what in str(caught.value)


def test_where() -> None:
    with pytest.raises(MarkupError) as caught:
        parse(b"<a>\n  <b></c>\n</a>")
    assert caught.value.line == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_encodings(encoding: str) -> None:
    text = '<?xml version="1.0" encoding="' + encoding.upper() + '"?><a>é</a>'
    assert parse(text.encode(encoding)).text == "é"


def test_prefixes_and_the_default_namespace_are_the_same() -> None:
    one = parse(b'<p:a xmlns:p="urn:x"><p:b c="1">t</p:b></p:a>')
    assert one == parse(b'<a xmlns="urn:x"><b c="1"><![CDATA[t]]></b><!-- said --><?ask nothing?></a>')
    assert one.value("b") == "t"
    assert one.value("c") is None
    assert one.value("b", "c") is None


def test_namespaced_attributes_are_kept_apart() -> None:
    element = parse(b'<a xmlns:x="urn:x" x:href="1" href="2"/>')
    assert element.attributes == {"{urn:x}href": "1", "href": "2"}
    with pytest.raises(ValueError, match="has a namespace"):
        serialize(element)


def test_what_xml_cannot_have_is_replaced() -> None:
    data = serialize(Element("", "a", {"b": '"\n\t<\x00'}, "\x1b & \ud800 \r ü"))
    assert data == b'<a b="&quot;&#10;&#9;&lt;&#65533;">&#65533; &amp; &#65533; &#13; &#252;</a>'
    assert parse(data).text == "� & � \r ü"


def test_links_get_the_base() -> None:
    element = Element("", "a", {"href": "/rest/api"}, children=(Element("", "b", {"href": "http://else/where"}),))
    assert serialize(element, "http://h:1") == b'<a href="http://h:1/rest/api"><b href="http://else/where"/></a>'


def test_walk_is_in_order() -> None:
    tree = parse(b"<a><b><c/></b><d/></a>")
    assert [element.name for element in tree.walk()] == ["a", "b", "c", "d"]
