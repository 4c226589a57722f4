"""Hypervisor calls of a partition over every transport: every kind of argument, copies of every size, refusals."""

from __future__ import annotations

import asyncio

import pytest
from behaviour_worlds import behaviour, set_fault

from pvnet.core.errors import DeadlineError
from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.hcall import HcallRc as Rc
from pvnet.papr.platform_io import FaultPoint
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import IssueHcall, Management, ManagementReply
from pvnet.testing.in_process import InProcessLab

FREE_IOBA = 0x800000
"""I/O address in pane 1 behind the VMC's own buffers."""
MOST = (1 << 64) - 1


async def hcall(lab: InProcessLab, opcode: int, *args: int, node: str = "mp") -> tuple[int, list[int]]:
    """Have a partition issue an hcall, as ``pvnet hcall`` does."""
    reply = await issue(lab, IssueHcall(opcode=opcode, args=args, retry_busy=False), node)
    return reply.rc, list(reply.outs)


async def issue(lab: InProcessLab, command: IssueHcall, node: str = "mp", timeout: float = 60.0) -> ManagementReply:
    client = await lab.client()
    envelope = Envelope(management=Management(issue_hcall=command))
    return (await client.call(node, envelope, timeout)).management_reply


@behaviour()
async def test_answers_of_every_shape(lab: InProcessLab) -> None:
    assert await hcall(lab, Op.H_REQUEST_VMC) == (Rc.H_SUCCESS, [0x30000001])
    assert (await hcall(lab, Op.H_REQUEST_VMC, node="lpar1"))[0] == Rc.H_AUTHORITY
    assert (await hcall(lab, 0xFFFC))[0] == Rc.H_FUNCTION
    assert (await hcall(lab, Op.H_REQUEST_VMC + 1))[0] == Rc.H_FUNCTION, "opcodes are multiples of 4"
    assert (await hcall(lab, MOST))[0] == Rc.H_FUNCTION
    liobn = int(lab.partition().layout.vmc.liobn)
    assert (await hcall(lab, Op.H_PUT_TCE, liobn, FREE_IOBA, MOST))[0] == Rc.H_PARAMETER
    assert (await hcall(lab, Op.H_PUT_TCE, MOST, FREE_IOBA, 0))[0] < 0
    rc, outs = await hcall(lab, Op.H_GET_TCE, liobn, FREE_IOBA)
    assert rc == Rc.H_SUCCESS
    assert outs[0] == 0x100000 + FREE_IOBA | 3
    assert (await hcall(lab, Op.H_STUFF_TCE, liobn, FREE_IOBA, 0, 2))[0] == Rc.H_SUCCESS
    assert (await hcall(lab, Op.H_GET_TCE, liobn, FREE_IOBA))[1][0] & 3 == 0
    assert (await hcall(lab, Op.H_PUT_TCE, liobn, FREE_IOBA, 0x100000 + FREE_IOBA | 3))[0] == Rc.H_SUCCESS
    assert (await hcall(lab, Op.H_SEND_CRQ, 0x30000000, 0x0001 << 48, 0))[0] == Rc.H_PARAMETER, "header without 0x80"
    assert (await hcall(lab, Op.H_SEND_CRQ, 0x30000099, 0x80 << 56, 0))[0] == Rc.H_PARAMETER, "nobody's unit"


@behaviour()
async def test_problem_state_is_refused(lab: InProcessLab) -> None:
    hcalls = lab.partition().hcalls
    assert (await hcalls.call(Op.H_REQUEST_VMC, problem_state=True))[0] == Rc.H_PRIVILEGE
    assert (await hcalls.call(Op.H_REQUEST_VMC))[0] == Rc.H_SUCCESS


@pytest.mark.parametrize("size", [1, 4096, 65535, 65536, 65537, 131071, 131072])
@behaviour()
async def test_copy_there_and_back_between_the_two_windows(lab: InProcessLab, size: int) -> None:
    node = lab.partition()
    liobn, rliobn = int(node.layout.vmc.liobn), int(node.layout.vmc.rliobn)
    memory = node.adapter.memory
    data = bytes(i * 31 % 251 for i in range(size))
    remote = 0x80000  # behind the seed buffers of pane 2
    memory.write(FREE_IOBA + 1, data)
    copy = node.hcalls.call
    assert (await copy(Op.H_COPY_RDMA, (size, liobn, FREE_IOBA + 1, rliobn, remote)))[0] == Rc.H_SUCCESS
    memory.write(FREE_IOBA, bytes(size + 8))
    assert (await copy(Op.H_COPY_RDMA, (size, rliobn, remote, liobn, FREE_IOBA + 3)))[0] == Rc.H_SUCCESS
    assert memory.read(FREE_IOBA + 3, size) == data
    assert memory.read(FREE_IOBA, 3) == bytes(3)
    assert memory.read(FREE_IOBA + 3 + size, 5) == bytes(5)
    assert (await copy(Op.H_COPY_RDMA, (size, liobn, FREE_IOBA + 3, liobn, FREE_IOBA + 0x40001)))[0] == Rc.H_SUCCESS
    assert memory.read(FREE_IOBA + 0x40001, size) == data


@behaviour()
async def test_refused_copies_move_nothing(lab: InProcessLab) -> None:
    node = lab.partition()
    liobn, rliobn = int(node.layout.vmc.liobn), int(node.layout.vmc.rliobn)
    node.adapter.memory.write(FREE_IOBA, b"\xaa" * 64)
    for expected, args in [
        (Rc.H_PARAMETER, (131073, liobn, FREE_IOBA, rliobn, 0x80000)),
        (Rc.H_PARAMETER, (MOST, liobn, FREE_IOBA, rliobn, 0x80000)),
        (Rc.H_S_PARM, (64, 0x12345678, FREE_IOBA, liobn, FREE_IOBA)),
        (Rc.H_D_PARM, (64, rliobn, 0x80000, 0x12345678, FREE_IOBA)),
        (Rc.H_S_PARM, (64, rliobn, 1 << 40, liobn, FREE_IOBA)),
        (Rc.H_D_PARM, (64, rliobn, 0x80000, liobn, 1 << 40)),
        (Rc.H_PERMISSION, (64, rliobn, 0x80000, liobn, 0)),
        (Rc.H_SUCCESS, (0, rliobn, 0x80000, liobn, FREE_IOBA)),
    ]:
        assert (await hcall(lab, Op.H_COPY_RDMA, *args))[0] == expected
    assert node.adapter.memory.read(FREE_IOBA, 64) == b"\xaa" * 64


@behaviour()
async def test_calls_at_once_are_all_answered_with_their_own_answer(lab: InProcessLab) -> None:
    liobn = int(lab.partition().layout.vmc.liobn)
    pages = [FREE_IOBA + 4096 * i for i in range(200)]
    answers = await asyncio.gather(*(lab.partition().hcalls.call(Op.H_GET_TCE, (liobn, page)) for page in pages))
    assert [(rc, outs[0]) for rc, outs in answers] == [(0, 0x100000 + page | 3) for page in pages]


@behaviour()
async def test_busy_is_repeated_if_asked_and_given_up_at_the_deadline(lab: InProcessLab) -> None:
    for rc in (Rc.H_BUSY, Rc.H_LONG_BUSY_ORDER_1_MSEC, Rc.H_LONG_BUSY_ORDER_100_MSEC):
        set_fault(lab, FaultPoint.REQUEST_VMC, rc, 2)
        assert (await hcall(lab, Op.H_REQUEST_VMC))[0] == rc
        reply = await issue(lab, IssueHcall(opcode=Op.H_REQUEST_VMC, retry_busy=True))
        assert (reply.rc, list(reply.outs)) == (Rc.H_SUCCESS, [0x30000001])
    set_fault(lab, FaultPoint.REQUEST_VMC, Rc.H_LONG_BUSY_ORDER_10_MSEC, 1_000_000)
    with pytest.raises(DeadlineError, match="is still busy after"):
        await lab.partition().hcalls.call(Op.H_REQUEST_VMC, timeout=0.2)
    retrying = asyncio.ensure_future(lab.partition().hcalls.call(Op.H_REQUEST_VMC, timeout=1000.0))
    await asyncio.wait([retrying], timeout=0.05)
    retrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await retrying
    set_fault(lab, FaultPoint.REQUEST_VMC, count=0)


@behaviour()
async def test_calls_of_a_hypervisor_that_dies_end(lab: InProcessLab) -> None:
    set_fault(lab, FaultPoint.REQUEST_VMC, Rc.H_LONG_BUSY_ORDER_1_SEC, 1_000_000)
    retrying = asyncio.ensure_future(lab.partition().hcalls.call(Op.H_REQUEST_VMC, timeout=1000.0))
    await asyncio.wait([retrying], timeout=0.05)
    await lab.crash("hypervisor")
    rc, _ = await retrying
    assert rc == Rc.H_HARDWARE
    await lab.start("hypervisor")
