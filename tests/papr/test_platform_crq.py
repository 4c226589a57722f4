"""CRQ pairs under LoPAR's rules, with the queue mapped into the platform and with the queue elsewhere."""

from __future__ import annotations

import pytest
from papr_platform_rig import (
    CLIENT,
    CLIENT_LOCAL,
    INIT,
    LOCAL,
    MESSAGE,
    QUEUE,
    SERVER,
    SERVER_LOCAL,
    SLOTS,
    UNIT,
    Rig,
    config,
    numbered,
)

from pvnet.core.errors import LocalError
from pvnet.memory.window import PAGE_BYTES
from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.hcall import HcallRc as Rc
from pvnet.papr.platform import Platform
from pvnet.papr.platform_io import (
    LOPAR,
    QEMU,
    AdapterConfig,
    CrqConsumed,
    DeliverCrq,
    FaultPoint,
    HcallRequest,
    HcallResult,
    PartitionConfig,
    PartitionDied,
    PartitionPartner,
    PartitionStarted,
    PartnerRegistered,
    PlatformConfig,
    SetFault,
    Suspend,
)

FAILED = b"\xff\x01" + bytes(14)
DEREGISTERED = b"\xff\x02" + bytes(14)
SUSPENDED = b"\xff\x06" + bytes(14)


@pytest.fixture(params=["mapped", "mapped later", "remote"])
def rig(request: pytest.FixtureRequest) -> Rig:
    rig = Rig(request.param != "remote", later=request.param == "mapped later")
    rig.start("mp", "lpar")
    return rig


def pair(rig: Rig) -> None:
    """Both ends of the partition pair registered."""
    assert rig.open("mp", SERVER, SERVER_LOCAL) == Rc.H_CLOSED
    assert rig.open("lpar", CLIENT, CLIENT_LOCAL) == Rc.H_SUCCESS


def test_registration_in_order_of_checks(rig: Rig) -> None:
    rig.map_all("mp", LOCAL)
    for args, rc in (
        ((0x99, QUEUE, 4096), Rc.H_PARAMETER),
        ((UNIT, QUEUE + 16, 4096), Rc.H_PARAMETER),
        ((UNIT, QUEUE, 0), Rc.H_PARAMETER),
        ((UNIT, QUEUE, 4096 + 16), Rc.H_PARAMETER),
        ((UNIT, QUEUE, 1 << 63), Rc.H_PARAMETER),
        ((UNIT, 63 * PAGE_BYTES, 8192), Rc.H_PARAMETER),
        ((0x60, QUEUE, 4096), Rc.H_PARAMETER),
        ((0x70, QUEUE, 4096), Rc.H_PARAMETER),
        ((UNIT, QUEUE, 4096), Rc.H_CLOSED),
        ((UNIT, QUEUE, 4096), Rc.H_RESOURCE),
    ):
        assert rig.call("mp", Op.H_REG_CRQ, *args) == rc, args
    rig.map_all("mp", 0x1000_0070)
    assert rig.call("mp", Op.H_REG_CRQ, 0x70, QUEUE, 4096) == Rc.H_NOT_FOUND
    assert rig.call("mp", Op.H_REG_CRQ, 0xABCD_0000_0000 | UNIT, QUEUE, 4096) == Rc.H_RESOURCE


def test_a_queue_page_must_be_readable_and_writable(rig: Rig) -> None:
    for access in (0, 1, 2):
        assert rig.call("mp", Op.H_PUT_TCE, LOCAL, QUEUE, QUEUE | access) == 0
        assert rig.call("mp", Op.H_REG_CRQ, UNIT, QUEUE, 4096) == Rc.H_PARAMETER
    assert rig.call("mp", Op.H_PUT_TCE, LOCAL, QUEUE, QUEUE | 3) == 0
    assert rig.call("mp", Op.H_REG_CRQ, UNIT, QUEUE, 4096) == Rc.H_CLOSED


def test_hypervisor_pair_talks_both_ways(rig: Rig) -> None:
    assert rig.open("mp", UNIT, LOCAL) == Rc.H_CLOSED
    assert PartnerRegistered("mp", UNIT, SLOTS) in rig.log
    assert rig.send("mp", UNIT, INIT) == Rc.H_CLOSED
    rig.post(INIT)
    assert rig.platform.counters["post_closed"] == 1
    rig.hypervisor_up()
    assert rig.send("mp", UNIT, INIT) == Rc.H_SUCCESS
    assert rig.partner == [INIT]
    rig.post(MESSAGE)
    assert rig.consume("mp", UNIT) == [MESSAGE]
    assert rig.irqs == [("mp", UNIT)]


def test_the_answer_comes_before_its_consequences() -> None:
    rig = Rig(mapped=False)
    rig.start("mp", "lpar")
    rig.hypervisor_up()
    rig.map_all("mp", LOCAL)
    outputs = rig.platform.feed(HcallRequest("mp", 7, Op.H_REG_CRQ, (UNIT, QUEUE, 4096)), 0.0)
    assert outputs == [HcallResult("mp", 7, Rc.H_SUCCESS), PartnerRegistered("mp", UNIT, 256)]
    posted = rig.platform.partner_post("mp", UNIT, INIT)
    assert posted == [DeliverCrq("mp", UNIT, 1, 0, INIT, irq=False)]


def test_partition_pair_talks_both_ways_and_closes(rig: Rig) -> None:
    assert rig.open("mp", SERVER, SERVER_LOCAL) == Rc.H_CLOSED
    assert rig.send("mp", SERVER, INIT) == Rc.H_CLOSED
    assert rig.send("lpar", CLIENT, INIT) == Rc.H_CLOSED, "a sender must be registered itself"
    assert rig.open("lpar", CLIENT, CLIENT_LOCAL) == Rc.H_SUCCESS
    assert rig.send("mp", SERVER, INIT) == Rc.H_SUCCESS
    assert rig.send("lpar", CLIENT, MESSAGE) == Rc.H_SUCCESS
    assert rig.consume("lpar", CLIENT) == [INIT]
    assert rig.consume("mp", SERVER) == [MESSAGE]
    assert rig.call("lpar", Op.H_FREE_CRQ, CLIENT) == Rc.H_SUCCESS
    assert rig.send("mp", SERVER, MESSAGE) == Rc.H_CLOSED
    assert rig.consume("mp", SERVER) == [DEREGISTERED]
    assert rig.call("lpar", Op.H_FREE_CRQ, CLIENT) == Rc.H_SUCCESS
    assert rig.consume("mp", SERVER) == [], "freeing twice tells once"
    assert rig.open("lpar", CLIENT, CLIENT_LOCAL) == Rc.H_SUCCESS
    assert rig.send("mp", SERVER, MESSAGE) == Rc.H_SUCCESS
    assert rig.consume("lpar", CLIENT) == [MESSAGE]


def test_send_checks(rig: Rig) -> None:
    rig.open("mp", UNIT, LOCAL)
    rig.hypervisor_up()
    for header in (0x00, 0x01, 0x7F, 0xFF):
        assert rig.send("mp", UNIT, bytes([header]) + bytes(15)) == Rc.H_PARAMETER
    assert rig.send("mp", 0x99, MESSAGE) == Rc.H_PARAMETER
    assert rig.send("mp", 0x60, MESSAGE) == Rc.H_PARAMETER
    assert rig.send("mp", 0x70, MESSAGE) == Rc.H_CLOSED
    assert rig.send("mp", UNIT, b"\x81" + bytes(15)) == Rc.H_SUCCESS
    assert rig.send("mp", UNIT, b"\xfe" + bytes(15)) == Rc.H_SUCCESS
    assert rig.partner == [b"\x81" + bytes(15), b"\xfe" + bytes(15)]


def test_full_ring_drops_and_keeps_its_place(rig: Rig) -> None:
    pair(rig)
    for n in range(SLOTS):
        assert rig.send("mp", SERVER, numbered(n)) == Rc.H_SUCCESS
    assert rig.send("mp", SERVER, numbered(999)) == Rc.H_DROPPED
    assert rig.consume("lpar", CLIENT, 2) == [numbered(0), numbered(1)]
    assert rig.send("mp", SERVER, numbered(1000)) == Rc.H_SUCCESS
    assert rig.consume("lpar", CLIENT) == [numbered(n) for n in range(2, SLOTS)] + [numbered(1000)]
    assert rig.platform.counters["crq_full"] == 1


def test_event_on_a_full_ring() -> None:
    mapped, remote = Rig(mapped=True), Rig(mapped=False)
    for rig in (mapped, remote):
        rig.start("mp", "lpar")
        pair(rig)
        for n in range(SLOTS):
            assert rig.send("mp", SERVER, numbered(n)) == Rc.H_SUCCESS
        assert rig.call("mp", Op.H_FREE_CRQ, SERVER) == Rc.H_SUCCESS
    # Mapped: over the last valid entry.
    assert mapped.memory["lpar"].read(QUEUE + 16 * (SLOTS - 1), 16) == DEREGISTERED
    assert mapped.consume("lpar", CLIENT) == [numbered(n) for n in range(SLOTS - 1)] + [DEREGISTERED]
    assert mapped.platform.counters["crq_overlaid"] == 1
    # Elsewhere: the first to enter, and until then the ring counts as full.
    assert remote.open("mp", SERVER, SERVER_LOCAL) == Rc.H_SUCCESS
    assert remote.send("mp", SERVER, MESSAGE) == Rc.H_DROPPED
    assert remote.consume("lpar", CLIENT, 1) == [numbered(0)]
    assert remote.send("mp", SERVER, MESSAGE) == Rc.H_DROPPED
    assert remote.consume("lpar", CLIENT) == [numbered(n) for n in range(1, SLOTS)] + [DEREGISTERED]
    assert remote.notes == ["event_held"]


def test_a_later_event_replaces_a_held_one() -> None:
    rig = Rig(mapped=False)
    rig.start("mp", "lpar")
    pair(rig)
    for n in range(SLOTS):
        rig.send("mp", SERVER, numbered(n))
    rig.call("mp", Op.H_FREE_CRQ, SERVER)
    rig.open("mp", SERVER, SERVER_LOCAL)
    rig.die("mp")
    assert rig.consume("lpar", CLIENT) == [numbered(n) for n in range(SLOTS)]
    assert rig.consume("lpar", CLIENT) == [FAILED]


def test_unmapped_queue_page_drops(rig: Rig) -> None:
    pair(rig)
    rig.call("lpar", Op.H_PUT_TCE, CLIENT_LOCAL, QUEUE, 0)
    assert rig.send("mp", SERVER, MESSAGE) == Rc.H_DROPPED
    assert rig.platform.counters["crq_unmapped"] == 1
    rig.call("mp", Op.H_FREE_CRQ, SERVER)
    assert rig.call("lpar", Op.H_ENABLE_CRQ, CLIENT) == Rc.H_LONG_BUSY_ORDER_10_MSEC
    rig.call("lpar", Op.H_PUT_TCE, CLIENT_LOCAL, QUEUE, QUEUE | 3)
    assert rig.call("lpar", Op.H_ENABLE_CRQ, CLIENT) == Rc.H_SUCCESS
    assert rig.consume("lpar", CLIENT) == [DEREGISTERED], "the event waited for the page"


def test_overlay_of_an_unmapped_slot_waits() -> None:
    rig = Rig(mapped=True)
    rig.start("mp", "lpar")
    rig.open("mp", SERVER, SERVER_LOCAL)
    assert rig.open("lpar", CLIENT, CLIENT_LOCAL, slots=2 * SLOTS) == 0
    for n in range(2 * SLOTS):
        assert rig.send("mp", SERVER, numbered(n)) == Rc.H_SUCCESS
    rig.call("lpar", Op.H_PUT_TCE, CLIENT_LOCAL, QUEUE + PAGE_BYTES, 0)
    rig.call("mp", Op.H_FREE_CRQ, SERVER)
    assert rig.platform.counters["crq_overlaid"] == 0
    assert rig.platform.deadline() is not None, "nobody reports progress of a mapped queue"
    assert rig.call("mp", Op.H_REG_CRQ, SERVER, QUEUE, 4096) == 0
    rig.call("lpar", Op.H_PUT_TCE, CLIENT_LOCAL, QUEUE + PAGE_BYTES, QUEUE + PAGE_BYTES | 3)
    rig.memory["lpar"].write(QUEUE, b"\0")
    assert rig.send("mp", SERVER, MESSAGE) == Rc.H_DROPPED, "the event comes first"
    assert rig.memory["lpar"].read(QUEUE, 16) == DEREGISTERED
    assert rig.platform.deadline() is None


def test_signal_mode(rig: Rig) -> None:
    pair(rig)
    for mode, rc in ((2, Rc.H_PARAMETER), (1 << 32 | 1, Rc.H_PARAMETER), (0, Rc.H_SUCCESS)):
        assert rig.call("lpar", Op.H_VIO_SIGNAL, CLIENT, mode) == rc
    assert rig.call("lpar", Op.H_VIO_SIGNAL, 0x99, 0) == Rc.H_PARAMETER
    rig.send("mp", SERVER, MESSAGE)
    assert rig.irqs == []
    rig.call("lpar", Op.H_VIO_SIGNAL, CLIENT, 1)
    assert rig.irqs == [], "switching on does not ring for old elements"
    rig.send("mp", SERVER, MESSAGE)
    assert rig.irqs == [("lpar", CLIENT)]
    rig.call("lpar", Op.H_FREE_CRQ, CLIENT)
    rig.memory["lpar"].write(QUEUE, bytes(SLOTS * 16))
    assert rig.call("lpar", Op.H_REG_CRQ, CLIENT, QUEUE, SLOTS * 16) == 0
    rig.send("mp", SERVER, MESSAGE)
    assert len(rig.irqs) == 2 and rig.irqs[1] == ("mp", SERVER), "registration leaves interrupts off"  # noqa: PT018
    assert rig.consume("lpar", CLIENT) == [MESSAGE]


def test_suspend_closes_until_enabled(rig: Rig) -> None:
    pair(rig)
    rig.feed(Suspend("lpar", CLIENT))
    assert rig.send("lpar", CLIENT, MESSAGE) == Rc.H_CLOSED
    assert rig.send("mp", SERVER, MESSAGE) == Rc.H_CLOSED
    assert rig.consume("lpar", CLIENT) == [SUSPENDED]
    rig.feed(Suspend("lpar", CLIENT))
    assert rig.consume("lpar", CLIENT) == []
    rig.feed(SetFault("lpar", CLIENT, FaultPoint.ENABLE, Rc.H_IN_PROGRESS, 2))
    for rc in (Rc.H_IN_PROGRESS, Rc.H_IN_PROGRESS, Rc.H_SUCCESS):
        assert rig.send("lpar", CLIENT, MESSAGE) == Rc.H_CLOSED
        assert rig.call("lpar", Op.H_ENABLE_CRQ, CLIENT) == rc
    assert rig.send("lpar", CLIENT, MESSAGE) == Rc.H_SUCCESS
    assert rig.send("mp", SERVER, INIT) == Rc.H_SUCCESS
    assert rig.consume("lpar", CLIENT) == [INIT]
    for unit, rc in ((0x99, Rc.H_PARAMETER), (0x60, Rc.H_PARAMETER), (UNIT, Rc.H_SUCCESS)):
        assert rig.call("mp", Op.H_ENABLE_CRQ, unit) == rc
        assert rig.call("mp", Op.H_FREE_CRQ, unit) == rc


def test_suspend_tells_the_hypervisor_end(rig: Rig) -> None:
    rig.open("mp", UNIT, LOCAL)
    rig.hypervisor_up()
    rig.feed(SetFault("mp", UNIT, FaultPoint.DELIVER))
    rig.post(MESSAGE)
    rig.feed(Suspend("mp", UNIT))
    assert rig.partner == [SUSPENDED]
    rig.post(MESSAGE)
    assert rig.platform.counters["post_closed"] == 1
    rig.feed(SetFault("mp", UNIT, FaultPoint.DELIVER, count=0))
    assert rig.consume("mp", UNIT) == [SUSPENDED], "what was posted before is lost with the connection"


def test_busy_free_is_closed_at_once(rig: Rig) -> None:
    pair(rig)
    rig.feed(SetFault("mp", SERVER, FaultPoint.FREE, Rc.H_LONG_BUSY_ORDER_1_MSEC, 2))
    for _ in range(2):
        assert rig.call("mp", Op.H_FREE_CRQ, SERVER) == Rc.H_LONG_BUSY_ORDER_1_MSEC
        assert rig.send("lpar", CLIENT, MESSAGE) == Rc.H_CLOSED
        assert rig.call("mp", Op.H_REG_CRQ, SERVER, QUEUE, 4096) == Rc.H_RESOURCE
        assert rig.consume("lpar", CLIENT) == []
    assert rig.call("mp", Op.H_FREE_CRQ, SERVER) == Rc.H_SUCCESS
    assert rig.consume("lpar", CLIENT) == [DEREGISTERED]
    assert rig.call("mp", Op.H_REG_CRQ, SERVER, QUEUE, 4096) == Rc.H_SUCCESS


def test_faults_of_send_register_and_request(rig: Rig) -> None:
    rig.map_all("mp", LOCAL)
    rig.feed(SetFault("mp", UNIT, FaultPoint.REGISTER, Rc.H_RESOURCE))
    assert rig.call("mp", Op.H_REG_CRQ, UNIT, QUEUE, 4096) == Rc.H_RESOURCE
    rig.open("mp", UNIT, LOCAL)
    rig.hypervisor_up()
    rig.feed(SetFault("mp", UNIT, FaultPoint.SEND, Rc.H_DROPPED, 2))
    assert [rig.send("mp", UNIT, numbered(n)) for n in range(3)] == [Rc.H_DROPPED, Rc.H_DROPPED, Rc.H_SUCCESS]
    assert rig.partner == [numbered(2)]
    rig.feed(SetFault("mp", UNIT, FaultPoint.SEND, Rc.H_CLOSED))
    rig.feed(SetFault("mp", UNIT, FaultPoint.SEND, count=0))
    assert rig.send("mp", UNIT, MESSAGE) == Rc.H_SUCCESS
    rig.feed(SetFault("mp", 0, FaultPoint.REQUEST_VMC, Rc.H_BUSY))
    assert rig.call("mp", Op.H_REQUEST_VMC) == Rc.H_BUSY
    assert rig.call("mp", Op.H_REQUEST_VMC) == Rc.H_SUCCESS
    assert rig.last().outs == (0x3000_0001,)
    assert rig.call("lpar", Op.H_REQUEST_VMC) == Rc.H_AUTHORITY
    with pytest.raises(LocalError):
        rig.feed(SetFault("mp", UNIT, FaultPoint.SEND, count=-1))
    with pytest.raises(LocalError):
        rig.feed(SetFault("mp", 0x99, FaultPoint.SEND))
    with pytest.raises(LocalError):
        rig.feed(SetFault("nobody", 0, FaultPoint.COPY))


def test_outbox_holds_back_at_half_a_ring(rig: Rig) -> None:
    rig.open("mp", UNIT, LOCAL)
    rig.hypervisor_up()
    for n in range(400):
        rig.post(numbered(n))
    assert rig.platform.waiting_posts("mp", UNIT) == 400 - SLOTS // 2
    assert (rig.platform.deadline() is not None) == rig.queues_mapped
    got: list[bytes] = []
    while batch := rig.consume("mp", UNIT, 3):
        got += batch
    assert got == [numbered(n) for n in range(400)]
    assert rig.platform.waiting_posts("mp", UNIT) == 0
    assert rig.platform.deadline() is None
    assert rig.platform.waiting_posts("mp", SERVER) == 0


def test_outbox_is_bounded_and_ends_with_the_registration(rig: Rig) -> None:
    rig.platform = Platform(config(post_limit=3))
    rig.start("mp", "lpar")
    rig.open("mp", UNIT, LOCAL)
    rig.hypervisor_up()
    rig.feed(SetFault("mp", UNIT, FaultPoint.DELIVER))
    for n in range(5):
        rig.post(numbered(n))
    assert rig.platform.waiting_posts("mp", UNIT) == 3
    assert rig.platform.counters["post_refused"] == 2
    assert "post_refused" in rig.notes
    rig.call("mp", Op.H_FREE_CRQ, UNIT)
    assert rig.platform.waiting_posts("mp", UNIT) == 0
    rig.feed(SetFault("mp", UNIT, FaultPoint.DELIVER, count=0))
    rig.open("mp", UNIT, LOCAL)
    rig.post(MESSAGE)
    assert rig.consume("mp", UNIT) == [MESSAGE]
    assert rig.partner == [DEREGISTERED]


def test_stalled_delivery_counts_as_full_and_resumes_in_order(rig: Rig) -> None:
    pair(rig)
    rig.send("mp", SERVER, numbered(1))
    rig.feed(SetFault("lpar", CLIENT, FaultPoint.DELIVER))
    assert rig.send("mp", SERVER, numbered(2)) == Rc.H_DROPPED
    rig.call("mp", Op.H_FREE_CRQ, SERVER)
    assert rig.consume("lpar", CLIENT) == [numbered(1)]
    rig.feed(SetFault("lpar", CLIENT, FaultPoint.DELIVER, count=0))
    assert rig.consume("lpar", CLIENT) == [DEREGISTERED]


def test_the_hypervisor_end_goes(rig: Rig) -> None:
    rig.open("mp", UNIT, LOCAL)
    rig.hypervisor_up()
    rig.take(rig.platform.partner_free("mp", UNIT))
    rig.take(rig.platform.partner_free("mp", UNIT))
    assert rig.consume("mp", UNIT) == [DEREGISTERED]
    assert rig.send("mp", UNIT, MESSAGE) == Rc.H_CLOSED
    rig.hypervisor_up()
    rig.take(rig.platform.partner_free("mp", UNIT, failed=True))
    assert rig.consume("mp", UNIT) == [FAILED]
    rig.call("mp", Op.H_FREE_CRQ, UNIT)
    assert rig.partner == [], "an end that is not up is not told"
    rig.hypervisor_up()
    rig.take(rig.platform.partner_free("mp", UNIT))


def test_misuse_of_the_hypervisor_end_raises(rig: Rig) -> None:
    rig.open("mp", UNIT, LOCAL)
    rig.hypervisor_up()
    for element in (b"short", bytes(16), FAILED):
        with pytest.raises(LocalError):
            rig.post(element)
    with pytest.raises(LocalError):
        rig.platform.partner_register("mp", SERVER)
    with pytest.raises(LocalError):
        rig.platform.partner_register("mp", 0x99)
    with pytest.raises(LocalError):
        rig.platform.partner_register("nobody", UNIT)
    with pytest.raises(LocalError):
        rig.platform.hypervisor_memory("mp", SERVER)


def test_death_is_told_and_everything_forgotten(rig: Rig) -> None:
    pair(rig)
    rig.open("mp", UNIT, LOCAL, ioba=0x8000)
    rig.hypervisor_up()
    rig.post(MESSAGE)
    rig.die("mp")
    assert rig.consume("lpar", CLIENT) == [FAILED]
    assert rig.partner == [FAILED]
    assert rig.send("lpar", CLIENT, MESSAGE) == Rc.H_CLOSED
    rig.start("mp")
    assert rig.call("mp", Op.H_GET_TCE, LOCAL, QUEUE) == 0
    assert rig.last().outs == (0,), "windows are empty again"
    assert rig.open("mp", SERVER, SERVER_LOCAL) == Rc.H_SUCCESS
    assert rig.send("lpar", CLIENT, INIT) == Rc.H_SUCCESS
    assert rig.consume("mp", SERVER) == [INIT], "registrations count from 1 again"


def test_death_while_freeing_is_told(rig: Rig) -> None:
    pair(rig)
    rig.feed(SetFault("mp", SERVER, FaultPoint.FREE, Rc.H_BUSY))
    rig.call("mp", Op.H_FREE_CRQ, SERVER)
    rig.die("mp")
    assert rig.consume("lpar", CLIENT) == [FAILED]


def test_a_restart_without_a_death_notice_is_a_death(rig: Rig) -> None:
    pair(rig)
    rig.start("mp")
    assert rig.consume("lpar", CLIENT) == [FAILED]


def test_strangers_have_no_authority(rig: Rig) -> None:
    assert rig.call("nobody", Op.H_REQUEST_VMC) == Rc.H_AUTHORITY
    rig.feed(PartitionDied("mp"))
    assert rig.call("mp", Op.H_REQUEST_VMC) == Rc.H_AUTHORITY
    assert rig.notes == ["hcall_of_stranger"] * 2
    for event in (PartitionStarted("nobody"), PartitionDied("nobody"), Suspend("mp", 0x99)):
        with pytest.raises(LocalError):
            rig.feed(event)


def test_progress_that_cannot_be(rig: Rig) -> None:
    pair(rig)
    rig.send("mp", SERVER, MESSAGE)
    rig.feed(CrqConsumed("lpar", CLIENT, 2, 1))
    rig.feed(CrqConsumed("lpar", CLIENT, 1, -1))
    rig.feed(CrqConsumed("lpar", UNIT, 1, 1))
    assert rig.platform.counters["progress_stale"] == 3
    rig.feed(CrqConsumed("lpar", 0x99, 1, 1))
    rig.feed(CrqConsumed("nobody", CLIENT, 1, 1))
    assert rig.platform.counters["unknown_unit"] == 2
    rig.feed(CrqConsumed("lpar", CLIENT, 1, 1 << 70))
    assert rig.platform.counters["progress_impossible"] == (0 if rig.queues_mapped else 1)


def test_privilege_function_and_broken_registers(rig: Rig) -> None:
    assert rig.call("mp", Op.H_REMOVE) == Rc.H_FUNCTION
    assert rig.call("mp", Op.H_REG_CRQ + 1) == Rc.H_FUNCTION
    assert rig.call("mp", Op.H_REG_CRQ, -1) == Rc.H_PARAMETER
    assert rig.call("mp", Op.H_REG_CRQ, 1 << 64) == Rc.H_PARAMETER
    assert rig.call("mp", Op.H_REG_CRQ, *range(10)) == Rc.H_PARAMETER
    rig.feed(HcallRequest("mp", 900, Op.H_REMOVE, (), problem_state=True))
    assert rig.results[900].rc == Rc.H_PRIVILEGE


def test_two_platforms_share_nothing() -> None:
    one, two = Rig(mapped=True), Rig(mapped=True)
    for rig in (one, two):
        rig.start("mp", "lpar")
    one.open("mp", UNIT, LOCAL)
    one.hypervisor_up()
    assert two.open("mp", UNIT, LOCAL) == Rc.H_CLOSED
    one.send("mp", UNIT, MESSAGE)
    assert two.partner == []
    assert one.platform.hypervisor_memory("mp", UNIT).segment is not two.platform.hypervisor_memory("mp", UNIT).segment


def test_qemu_profile_between_partitions() -> None:
    rig = Rig(mapped=True, platform=Platform(config(QEMU)))
    rig.start("mp", "lpar")
    assert rig.send("mp", SERVER, MESSAGE) == Rc.H_SUCCESS
    assert rig.send("mp", 0x70, MESSAGE) == Rc.H_SUCCESS
    assert rig.open("lpar", CLIENT, CLIENT_LOCAL) == Rc.H_SUCCESS
    assert rig.send("mp", SERVER, MESSAGE) == Rc.H_SUCCESS
    assert rig.consume("lpar", CLIENT) == [MESSAGE]
    assert rig.call("mp", Op.H_COPY_RDMA, 0) == Rc.H_FUNCTION
    assert rig.call("mp", Op.H_REQUEST_VMC) == Rc.H_FUNCTION


@pytest.mark.parametrize(
    "partitions",
    [
        (PartitionConfig("a", 4096), PartitionConfig("a", 4096)),
        (PartitionConfig("a", 4096, (AdapterConfig(1), AdapterConfig(1))),),
        (PartitionConfig("a", 4096, (AdapterConfig(1, liobn=5), AdapterConfig(2, remote_liobn=5))),),
        (PartitionConfig("a", 4096, (AdapterConfig(1, partner=PartitionPartner("b", 1)),)),),
        (
            PartitionConfig("a", 4096, (AdapterConfig(1, partner=PartitionPartner("b", 1)),)),
            PartitionConfig("b", 4096, (AdapterConfig(1, partner=None),)),
        ),
    ],
)
def test_configurations_that_contradict_themselves(partitions: tuple[PartitionConfig, ...]) -> None:
    with pytest.raises(LocalError):
        Platform(PlatformConfig(partitions, LOPAR))
