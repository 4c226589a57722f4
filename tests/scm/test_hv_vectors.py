"""The golden vectors of the sheet: 57 rows on one machine with QEMU's rules, 22 with those of a PowerVM-like one.

A row is: opcode, args, rc, registers written (``None``: unchanged).  Rows run in order.
"""

import pytest
from scm_hv_rig import CONFIG_P, D, Rig

from pvnet.papr.dispatch import MAX_ARGS
from pvnet.papr.hcall import HcallOpcode as H
from pvnet.papr.hcall import HcallRc as R
from pvnet.scm.device import StatisticsAccess
from pvnet.scm.hypervisor_io import SetHealth, SetStatistics
from pvnet.scm.stats import Statistic

ANY = (1 << 64) - 1
UNARMED = 1 << 63
READ, WRITE, BIND, UNBIND = H.H_SCM_READ_METADATA, H.H_SCM_WRITE_METADATA, H.H_SCM_BIND_MEM, H.H_SCM_UNBIND_MEM
ALL, HEALTH, FLUSH, STATS = H.H_SCM_UNBIND_ALL, H.H_SCM_HEALTH, H.H_SCM_FLUSH, H.H_SCM_PERFORMANCE_STATS
BLOCK, LOGICAL = H.H_SCM_QUERY_BLOCK_MEM_BINDING, H.H_SCM_QUERY_LOGICAL_MEM_BINDING
A, B, EMPTY, LMB = 0x90000000, 0x90000001, 0x90000002, 0x80000010
LONG_10 = R.H_LONG_BUSY_ORDER_10_MSEC

Q = [
    (1, READ, (A, 0, 8), 0, {4: 0x4E414D4553504143}),
    (2, READ, (A, 8, 4), 0, {4: 0x455F494E}),
    (3, READ, (A, 0xD, 2), 0, {4: 0x4558}),
    (4, READ, (A, 0xF, 1), 0, {4: 0}),
    (5, READ, (A, 0x1FFF8, 8), 0, {4: 0}),
    (6, READ, (A, 0x1FFF9, 8), R.H_P2, {}),
    (7, READ, (A, 0xFFFFFFFFFFFFFFFC, 8), R.H_P2, {}),
    (8, READ, (A, 0, 3), R.H_P3, {}),
    (9, READ, (A, 0x20000, 0), R.H_P3, {}),
    (10, READ, (EMPTY, 0, 8), R.H_PARAMETER, {}),
    (11, READ, (LMB, 0, 3), R.H_PARAMETER, {}),
    (12, READ, (0xDEADBEEF90000000, 0, 8), 0, {4: 0x4E414D4553504143}),
    (13, WRITE, (A, 0x100, 0x102030405060708, 8), 0, {}),
    (14, READ, (A, 0x100, 4), 0, {4: 0x1020304}),
    (15, WRITE, (A, 0x104, 0x1FFFF, 2), R.H_P2, {}),
    (16, READ, (A, 0x104, 4), 0, {4: 0x5060708}),
    (17, WRITE, (A, 0x1FFFF, 0xAB, 1), 0, {}),
    (18, WRITE, (A, 0, 0, 0x10), R.H_P4, {}),
    (19, WRITE, (B, 0, 0, 8), R.H_P2, {}),
    (20, BIND, (A, 0, 4, ANY, 0), 0, {5: 0x100000000, 6: 4}),
    (21, BIND, (A, 0, 4, ANY, 0), 0, {5: 0x100000000, 6: 4}),
    (22, BIND, (A, 2, 2, ANY, 0), 0, {5: 0x120000000, 6: 2}),
    (23, BIND, (A, 4, 0, ANY, 0), 0, {5: 0x140000000, 6: 0}),
    (24, BIND, (A, 4, 1, ANY, 0), R.H_P3, {}),
    (25, BIND, (A, 5, 0, ANY, 0), R.H_P2, {}),
    (26, BIND, (A, 1, ANY, ANY, 0), R.H_P3, {}),
    (27, BIND, (A, 0, 4, 0x100000000, 0), R.H_OVERLAP, {}),
    (28, BIND, (A, 9, 9, 5, 1), R.H_P5, {}),
    (29, UNBIND, (A, 0x110000000, 2, 0), 0, {5: 2}),
    (30, UNBIND, (A, 0x110000001, 2, 0), R.H_P2, {}),
    (31, UNBIND, (A, 0x100000000, 0, 0), R.H_P3, {}),
    (32, UNBIND, (A, 0x140000000, 1, 0), R.H_P3, {}),
    (33, UNBIND, (A, 0x100000000, 0x1000000000, 0), R.H_P3, {}),
    (34, UNBIND, (A, 0x100000000, 4, 7), R.H_P4, {}),
    (35, UNBIND, (A, 0xFFFFFFFFF0000000, 1, 0), R.H_P3, {}),
    (36, UNBIND, (A, 0xFFFFFFFFF0000000, 2, 0), R.H_P3, {}),
    (37, ALL, (2, A, 0), 0, {5: 4}),
    (38, ALL, (1, 0, 0), 0, {5: 5}),
    (39, ALL, (2, EMPTY, 0), R.H_P2, {}),
    (40, ALL, (3, A, 0), R.H_PARAMETER, {}),
    (41, ALL, (3, A, 1), R.H_P4, {}),
    (42, HEALTH, (A,), 0, {4: 0, 5: UNARMED}),
    (43, HEALTH, (B,), 0, {4: UNARMED, 5: UNARMED}),
    (44, HEALTH, (EMPTY,), R.H_PARAMETER, {}),
    (45, FLUSH, (A, 0), LONG_10, {4: 1}),
    (46, FLUSH, (A, 1), LONG_10, {4: 1}),
    ("finish", None, (), 0, {}),
    (47, FLUSH, (A, 1), 0, {}),
    (48, FLUSH, (A, 1), R.H_P2, {}),
    (49, FLUSH, (A, 0), LONG_10, {4: 2}),
    (50, FLUSH, (A, 0x77), R.H_P2, {}),
    (51, FLUSH, (B, 0), R.H_PARAMETER, {}),
    (52, STATS, (A, 0, 0), R.H_FUNCTION, {}),
    (53, BLOCK, (A, 0), R.H_FUNCTION, {}),
    (54, LOGICAL, (0x100000000,), R.H_FUNCTION, {}),
    (55, 0x3ED, (A, 0, 4, ANY, 0), R.H_FUNCTION, {}),
    (56, 0, (), R.H_FUNCTION, {}),
    (57, "problem state", (A,), R.H_PRIVILEGE, {}),
]


def after(args, outs):
    """r4 to r12 after a call."""
    sent = (*args, *(0 for _ in range(MAX_ARGS - len(args))))
    return dict(enumerate((*outs, *sent[len(outs) :]), 4))


def expected(args, written):
    return {**after(args, ()), **written}


@pytest.mark.parametrize("mapped", [True, False])
def test_vectors_of_configuration_q(mapped):
    rig = Rig(mapped=mapped)
    run = 0
    for number, opcode, args, rc, written in Q:
        if number == "finish":
            rig.finish_flush()
            continue
        problem = opcode == "problem state"
        got, outs = rig.raw(HEALTH if problem else opcode, *args, problem=problem)
        assert (number, got, after(args, outs)) == (number, rc, expected(args, written))
        run += 1
    assert run == 57


BUF = 0x1000
HEADER = "53434d5354415453 00000001"
LIFE = "4d656d4c69666520"

P = [
    (1, BIND, (D, 0, 8, ANY, 0), R.H_BUSY, {4: 0x1001, 5: 0x800000000, 6: 3}),
    (2, BIND, (D, 0, 8, ANY, 0x1001), R.H_BUSY, {4: 0x1002, 5: 0x800000000, 6: 6}),
    (3, BIND, (D, 0, 8, ANY, 0x1002), 0, {5: 0x800000000, 6: 8}),
    (4, BIND, (D, 0, 8, ANY, 0x1002), R.H_P5, {}),
    (5, BIND, (D, 0, 8, ANY, 0), R.H_OVERLAP, {}),
    (6, BLOCK, (D, 0), 0, {4: 0x800000000}),
    (7, BLOCK, (D, 7), 0, {4: 0x807000000}),
    (8, BLOCK, (D, 8), R.H_P2, {}),
    (9, LOGICAL, (0x803000000,), 0, {4: D, 5: 3}),
    (10, LOGICAL, (0x900000000,), R.H_NOT_FOUND, {}),
    (11, ALL, (2, D, 0), R.H_LONG_BUSY_ORDER_1_MSEC, {4: 0x2001}),
    (12, ALL, (2, D, 0x2001), 0, {}),
    (13, BLOCK, (D, 0), R.H_NOT_FOUND, {}),
    (14, STATS, (D, 0, 0), 0, {4: 0x110}),
    (15, STATS, (D, BUF, 0x110), 0, {}),
    (16, STATS, (D, BUF, 0x20), 0, {}),
    (17, STATS, (D, BUF, 0x20), R.H_PARTIAL, {4: 1}),
    (18, STATS, (D, 0, 0), R.H_AUTHORITY, {}),
    (19, HEALTH, (D,), 0, {4: 0x4400000000000000, 5: 0xC400000000000000}),
    (20, HEALTH, (D,), 0, {4: 0xFFFFFFFFFFFFFFFF, 5: 0x0040000000000000}),
    (21, FLUSH, (D, 0), R.H_BUSY, {4: 0x3001}),
    (22, FLUSH, (D, 0x3001), R.H_HARDWARE, {}),
]
REQUESTS = {
    15: (HEADER + "00000000").replace(" ", ""),
    16: (HEADER + "00000001" + LIFE + "0000000000000000").replace(" ", ""),
    17: (HEADER + "00000001" + "5858585858585858" + "0000000000000000").replace(" ", ""),
}


@pytest.mark.parametrize("mapped", [True, False])
def test_vectors_of_profile_p(mapped):
    rig = Rig(CONFIG_P, mapped=mapped)
    rig.feed(SetStatistics("guest", D, {Statistic.MEM_LIFE: 98}))
    for number, opcode, args, rc, written in P:
        match number:
            case 15 | 16 | 17:
                rig.memory.write(BUF, bytes.fromhex(REQUESTS[number]).ljust(0x400, b"\0"))
            case 18:  # on another machine, where collection is off
                rig.feed(SetStatistics("guest", D, access=StatisticsAccess.DISABLED))
            case 19:
                rig.feed(SetHealth("guest", D, (0x4400000000000000, 0xC400000000000000)))
            case 20:
                rig.feed(SetHealth("guest", D, (0xFFFFFFFFFFFFFFFF, 0x0040000000000000)))
            case 22:
                rig.finish_flush(error=5)
        got, outs = rig.raw(opcode, *args)
        assert (number, got, after(args, outs)) == (number, rc, expected(args, written))
        reply = rig.memory.read(BUF, 0x120)
        if number == 15:
            assert reply[:16] == bytes.fromhex(HEADER.replace(" ", "")) + bytes.fromhex("00000010")
            assert {reply[16 * k : 16 * k + 8] for k in range(1, 17)} == {s.value for s in Statistic}
            assert reply[0x110:] == bytes(16)
        if number == 16:
            assert reply[24:32] == bytes.fromhex("0000000000000062")
            assert reply[32:] == bytes(0x100)
        if number == 17:
            assert reply[24:32] == bytes(8)
    assert len(P) == 22
