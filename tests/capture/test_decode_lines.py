"""Lines of imports: what a log does not say stays unknown."""

from __future__ import annotations

import pytest
from decode_rig import line, record, vector

from pvnet.capture.decode import decode
from pvnet.capture.model import LINKTYPE_HCALL


def test_a_recorded_scm_probe_names_registers() -> None:
    shown = [item.summary for item in vector("linux-6.1-scm-probe.jsonl")]
    assert shown[1] == "# insmod libnvdimm.ko"
    assert any(
        text.startswith("H_SCM_BIND_MEM drc=0x90000001 start=0 blocks=1")
        and text.endswith("= H_SUCCESS token=0x90000001 address=0xa0000000 bound=1")
        for text in shown
    )


def test_unknown_is_not_zero() -> None:
    item = line(source="tracefs", opcode="0x3ec", name="H_SCM_BIND_MEM", args=None, rc=None, outs=None)
    assert item.summary == "H_SCM_BIND_MEM (args unknown) = unknown"
    assert item.get("hcall.rc") is None
    item = line(opcode="0x100", args=[None], rc=0)
    assert item.summary == "H_FREE_CRQ unknown = H_SUCCESS"
    item = line(opcode="0x400", args=["0x1"], rc=0, after={"r5": "0x2"})
    assert [field.value for field in item.fields() if field.name == "hcall.outs"] == [None, 2]
    assert item.summary == "H_SCM_HEALTH drc=0x1 = H_SUCCESS valid=0x2"
    item = line(opcode=None, args=["0x1"], rc=-1)
    assert item.summary == "hcall = H_HARDWARE"


def test_outs_as_a_table_and_the_time_it_took() -> None:
    item = line(opcode="0x400", args=["0x1"], rc=0, outs={"r4": "0x8", "r5": "0x9"}, took=0.00025, note="seen")
    assert item.summary == "H_SCM_HEALTH drc=0x1 = H_SUCCESS health=0x8 valid=0x9 # seen"
    assert item.get("hcall.took_ns") == 250_000


def test_other_lines() -> None:
    assert line(crq_in="c002" + "00" * 14).summary == "CRQ INIT COMPLETE"
    assert (
        line(app="write", hmc_index=1, length=3, data_head="616263").summary
        == "application write hmc 1, 3 bytes [616263]"
    )
    assert line(app="close").summary == "application close hmc ?"
    assert line(observe="irq", raised=True).summary == "# irq was pending"
    queue = line(observe="queue", slots={"0": "c0" + "00" * 15, "x": "00"})
    assert (queue.get("queue.slot"), queue.kind) == (0, "observe_queue")
    lost = line(lost=12)
    assert (lost.problems, lost.summary) == (("12 events were lost here",), "# 12 events were lost here")
    assert line(lost=None).summary == "# events were lost here"
    assert line(event="spapr_irq", values={"irq": 5}).summary == "spapr_irq irq=5"
    assert line(meta={}).summary == "# meta"
    sent = line(**{"from": "partition", "crq": "80" * 16, "rc": -4})
    assert sent.summary.endswith("= H_PARAMETER")
    copied = line(hcall="H_COPY_RDMA", args=["0x1"] * 5, rc=0, outs=[], direction="to_hv", data_head="6162")
    assert (copied.get("hcall.data"), copied.get("hcall.direction")) == (b"ab", "to_hv")


@pytest.mark.parametrize(
    "values",
    [
        {"opcode": "zero"},
        {"opcode": True},
        {"opcode": "0x10", "args": "none"},
        {"opcode": "0x10", "args": ["0x1"] * 17},
        {"crq_in": "xyz"},
        {"from": "hypervisor", "crq": "00"},
    ],
)
def test_what_is_of_the_wrong_kind_is_a_problem(values: dict[str, object]) -> None:
    assert line(**values).problems


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b"x" * (1 << 20) + b"y"])
def test_no_line_at_all(data: bytes) -> None:
    item = decode(record(data, LINKTYPE_HCALL))
    assert (item.kind, item.problems) == ("unknown", ("not a line with a JSON object",))
