"""What ``make fuzz`` has found, each as a test of its own."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from pvnet.capture.filter import Filter
from pvnet.capture.importers import call_of
from pvnet.capture.jsonl import JsonObject
from pvnet.capture.model import LINKTYPE_HCALL, Interface, Record
from pvnet.capture.pcapng import block, option, packet_block, section_block
from pvnet.capture.pvcap import CaptureIndex, open_capture
from pvnet.core.errors import ConfigError

LONG = "9" * 5000
"""More digits than Python reads at once."""


def test_a_register_with_a_number_of_any_length_is_none() -> None:
    values = {"opcode": "0x4", "outs": {f"r{LONG}": "0x1", "r4": "0x2", "r\u00b2": "0x3"}}
    call = call_of(Record(Interface("x", LINKTYPE_HCALL), None, json.dumps(values).encode()))
    assert call is not None
    assert call.outs == {4: 2}


def test_a_decimal_key_has_a_limit() -> None:
    with pytest.raises(ConfigError, match="a decimal number as the key"):
        JsonObject("file:1", {"slots": {LONG: "00"}}).hex_bytes_by_number("slots", 1)


@pytest.mark.parametrize("value", ["1e309", "-inf", "nan", "1.5"])
def test_bits_of_what_is_no_whole_number(value: str) -> None:
    with pytest.raises(ConfigError, match=r"position 14: .*: expected a whole number"):
        Filter.parse(f"vfio.flags & {value}")


def test_bits_of_a_huge_number() -> None:
    Filter.parse("vfio.flags & 0x1" + "0" * 1000)


def test_an_index_of_times_before_1970(tmp_path: Path) -> None:
    seconds = option(14, struct.pack("<q", -3600)) + option(0, b"")
    data = section_block(b"") + block(1, struct.pack("<HHI", 1, 0, 0) + option(9, b"\x09") + seconds)
    data += b"".join(packet_block(0, tick, b"x") for tick in (5, 6, 7, 8))
    path = tmp_path / "x.pcapng"
    path.write_bytes(data)
    index = CaptureIndex.build(path, every=2)
    hour = 3600 * 10**9
    assert (index.first_ns, index.last_ns) == (5 - hour, 8 - hour)
    with open_capture(path) as reader:
        index.seek_time(reader, 7 - hour)
        assert [record.number for record in reader] == [3, 4]
