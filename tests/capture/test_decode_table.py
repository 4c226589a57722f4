"""One table of field names for everybody: it has all fields of the schema, and decoders make no others."""

from __future__ import annotations

import re

from pvnet.capture.decode import FIELDS, FieldType
from pvnet.capture.decode_table import LAYER_OF_BODY, RAW
from pvnet.pb.v1.envelope_pb2 import Envelope


def test_every_kind_of_body_has_a_layer() -> None:
    bodies = {field.name for field in Envelope.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert set(LAYER_OF_BODY) == bodies


def test_names_are_those_a_display_filter_can_have() -> None:
    assert all(re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", name) for name in FIELDS)
    assert all(spec.name == name for name, spec in FIELDS.items())
    assert len({spec.name for spec in RAW}) == len(RAW)


def test_fields_come_from_the_schema_with_type_and_names() -> None:
    assert FIELDS["hcall.opcode"].values[0x3EC] == "H_SCM_BIND_MEM"
    assert FIELDS["hcall.rc"].type is FieldType.I64
    assert FIELDS["hcall.rc"].values[-4] == "H_PARAMETER"
    assert FIELDS["mgmt.power_on.name"].type is FieldType.STRING
    assert FIELDS["mgmt.status"].values[2] == "CONFLICT"
    assert FIELDS["lifecycle.phase"].values == {0: "UNSPECIFIED", 1: "BIRTH", 2: "READY", 3: "LOST", 4: "DEATH"}
    assert FIELDS["lifecycle.direct.path"].type is FieldType.STRING
    assert FIELDS["mgmt.vbus.attributes"].type is FieldType.STRING
    assert FIELDS["vbus.writes.data"].type is FieldType.BYTES
    assert FIELDS["envelope.source"].type is FieldType.STRING


def test_a_field_prints_as_its_kind_does() -> None:
    assert FIELDS["vmc.type"].text(6) == "SIGNAL (0x6)"
    assert FIELDS["vmc.type"].text(0x77) == "0x77"
    assert FIELDS["vfio.dma_flags"].text(3) == "0x3 READ|WRITE"
    assert FIELDS["vfio.dma_flags"].text(0) == "0x0"
    assert FIELDS["hcall.args"].text(None) == "unknown"
    assert FIELDS["crq.irq"].text(True) == "true"
    assert FIELDS["mark.text"].text("a\x1b[2J") == "a\\x1b[2J"
    assert FIELDS["hcall.data"].text(bytes(40)) == "00" * 32 + "... (40 bytes)"
    assert FIELDS["vmc.type"].number_of("signal") == 6
    assert FIELDS["vmc.type"].number_of("no such") is None
