"""Hcalls, CRQ elements and VMC messages: recordings of unmodified Linux and QEMU, and bytes by hand."""

from __future__ import annotations

from decode_rig import decoded, line, vector

from pvnet.pb.v1.management_pb2 import Management, ManagementReply
from pvnet.pb.v1.papr_pb2 import CrqEntry, CrqProgress, Hcall, HcallReply, Irq, MemoryRead, MemoryReply, MemoryWrite
from pvnet.vmc.router import RouterMessage, RouterOpcode, encode_frame

OPEN = bytes.fromhex("80020000010000030000000000000000")


def test_a_recorded_vmc_session_reads_as_what_happened() -> None:
    shown = [(item.source, item.kind, item.summary) for item in vector("linux-6.1-vmc-session.jsonl")]
    assert shown[1][2].startswith("H_REG_CRQ unit=0x2000 queue=0xc000000 length=0x10000 = H_SUCCESS")
    assert shown[2] == ("partition", "crq", "CRQ INIT")
    assert ("hypervisor", "crq", "CRQ INIT COMPLETE # CRQ init response") not in shown  # notes are for hcalls
    assert shown[4][2] == "VMC CAPABILITIES max_hmc 1 pool 32 MTU 4096 CRQ 4096 version 1.1"
    assert shown[6][2] == "VMC ADD_BUFFER hmc 0/0 buffer 0 owner partition lioba 0x0"
    assert not [item.problems for item in vector("linux-6.1-vmc-session.jsonl") if item.problems]


def test_another_drivers_elements_are_not_taken_for_vmc() -> None:
    # ibmvscsi as recorded: types 1 and 2 with a timeout, a length and an address
    for high, low in ((0x80020000001E0100, 0xC010100), (0x80010000003C0100, 0xC010200)):
        item = line(opcode="0x108", args=["0x2000", hex(high), hex(low)], rc=0)
        assert not item.has("vmc"), item.summary
        assert item.get("crq.format") == high >> 48 & 0xFF


def test_a_call_with_an_element_has_layers_down_to_the_vmc() -> None:
    words = [int.from_bytes(OPEN[:8]), int.from_bytes(OPEN[8:])]
    item = decoded(hcall=Hcall(opcode=0x108, args=[0x30000000, *words]), correlation=7)
    assert [layer.name for layer in item.layers] == ["envelope", "hcall", "crq", "vmc"]
    assert item.get("vmc.type") == 2
    assert (item.get("vmc.session"), item.get("vmc.index"), item.get("vmc.buffer_id")) == (1, 0, 3)
    assert item.summary == "H_SEND_CRQ unit=0x30000000 VMC OPEN hmc 0/1 buffer 3"
    assert (item.call, item.is_reply, item.kind) == (7, False, "hcall")


def test_calls_and_replies() -> None:
    assert decoded(hcall=Hcall(opcode=0x3E5, args=[1])).summary == "HcallOpcode(0x3E5) 0x1"
    item = decoded(hcall=Hcall(opcode=0x3EC, args=[0x90000000, 0, 1, 2, 3], problem_state=True))
    assert item.summary == "H_SCM_BIND_MEM drc=0x90000000 start=0 blocks=1 target=0x2 token=0x3 (problem state)"
    reply = decoded("hv", "lpar1", hcall_reply=HcallReply(rc=-4, outs=[1, 2]), correlation=3)
    assert reply.summary == "H_PARAMETER r4=0x1 r5=0x2"
    assert reply.is_reply
    assert decoded(hcall=Hcall(opcode=0x108, args=[1])).problems == ("H_SEND_CRQ without its three arguments",)


def test_entries_of_a_queue() -> None:
    def entry(element: bytes) -> CrqEntry:
        return CrqEntry(unit=0x30000010, registration=1, slot=4, element=element, irq=True)

    item = decoded("hv", "lpar1", crq_entry=entry(OPEN))
    assert item.summary == "unit=0x30000010 slot 4 VMC OPEN hmc 0/1 buffer 3 irq"
    assert decoded(crq_entry=entry(b"\xc0\x01" + bytes(14))).get("crq.init") == 1
    event = decoded(crq_entry=entry(b"\xff\x06" + bytes(14)))
    assert (event.get("crq.event"), event.problems) == (6, ())
    assert decoded(crq_entry=entry(b"\xff\x77" + bytes(14))).problems == ("unknown transport event 0x77",)
    assert decoded(crq_entry=entry(b"\x81" + bytes(15))).problems == ("reserved CRQ header 81 00",)
    assert decoded(crq_entry=entry(b"\x80")).problems == ("CRQ element of 1 bytes, not 16",)
    assert decoded(crq_entry=entry(bytes(16))).summary.endswith("CRQ EMPTY irq")
    refused = decoded(hcall=Hcall(opcode=0x108, args=[1, 0xFF06 << 48, 0]))
    assert refused.problems == ("H_SEND_CRQ of an element with header 0xff",)


def test_every_vmc_message_has_its_fields() -> None:
    shown = {}
    for item in vector("linux-6.1-vmc-negative.jsonl"):
        if item.has("vmc"):
            shown[item.get("vmc.type")] = {field.name for field in item.fields() if field.name.startswith("vmc.")}
    assert {1, 2, 3, 4, 5, 6, 0x77, 0x81, 0x82, 0x83, 0x84, 0x85} <= set(shown)
    assert shown[6] == {"vmc.type", "vmc.session", "vmc.index", "vmc.buffer_id", "vmc.length"}
    assert shown[0x77] == {"vmc.type"}
    assert "vmc.lioba" in shown[4]
    assert "vmc.status" in shown[0x85]


def test_what_a_session_carries_is_shown_where_it_is_known() -> None:
    command = encode_frame(Management(token=1, power_on={"name": "lpar2"}).SerializeToString())
    item = decoded(hcall=Hcall(opcode=0x110, args=[1, 2, 3, 4, 5], memory=command))
    assert item.summary.endswith("[management power_on]")
    assert item.get("mgmt.power_on.name") == "lpar2"
    reply = encode_frame(ManagementReply(token=1, status=1).SerializeToString())
    assert decoded("hv", hcall_reply=HcallReply(memory=reply)).summary == "H_SUCCESS [management reply NOT_FOUND]"
    router = RouterMessage(RouterOpcode.ECHO, b"hello", flags=0x40).encode()
    item = decoded("hv", hcall_reply=HcallReply(memory=router))
    assert (item.summary, item.get("router.data")) == ("H_SUCCESS [router ECHO GOOD]", b"hello")
    assert (
        decoded("hv", hcall_reply=HcallReply(memory=router[:20])).summary
        == f"H_SUCCESS [{router[:16].hex()}... (20 bytes)]"
    )


def test_memory_irqs_progress() -> None:
    assert decoded(memory_read=MemoryRead(address=0x1000, length=8)).summary == "read 8 bytes at 0x1000"
    assert decoded(memory_write=MemoryWrite(address=0x1000, data=b"ab")).summary == "write 2 bytes at 0x1000 [6162]"
    assert decoded(memory_reply=MemoryReply(error=14)).summary == "EFAULT"
    assert decoded(memory_reply=MemoryReply(data=b"a")).summary == "1 bytes [61]"
    assert decoded(irq=Irq(unit=16)).summary == "unit=0x10 irq"
    assert decoded(crq_progress=CrqProgress(unit=16, consumed=3)).summary == "unit=0x10 consumed 3"
