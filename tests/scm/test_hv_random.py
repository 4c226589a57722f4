"""Random calls against the naive model of the rules, and against nothing at all: the dispatcher never raises."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scm_hv_rig import GUEST, MEMORY, Rig
from scm_naive_model import ANY, Dev, Naive

from pvnet.papr.dispatch import MAX_ARGS
from pvnet.papr.drc import DrcType
from pvnet.papr.hcall import is_busy
from pvnet.papr.platform_io import HcallRequest
from pvnet.scm.device import ScmDeviceConfig, ScmType
from pvnet.scm.hypervisor_io import ConnectorConfig, ScmHypervisorConfig
from pvnet.scm.profiles import PHYP, QEMU

BS = 0x10000
BASE = 0x100000
U64 = 1 << 64
OPCODES = [0x3E4, 0x3E8, 0x3EC, 0x3EC, 0x3F0, 0x3FC, 0x3F4, 0x3F8, 0x400, 0x418, 0x44C, 0x44C]


def world(kind):
    """Four devices of one profile, or two of each."""
    devices = [
        Dev(0x90000000, 8, BASE, BS, kind != "qemu"),
        Dev(0x90000001, 2, BASE + 8 * BS, BS, kind == "phyp", spapr=False, unarmed=True),
        Dev(0x44100002, 3, BASE + 16 * BS, 2 * BS, kind != "qemu", readonly=True),
        Dev(0x90000005, 1, 0x80000000, BS, kind == "phyp", area=bytearray(b"\xff" * 16)),
    ]
    configs = tuple(
        ScmDeviceConfig(
            GUEST, d.drc, d.blocks, d.base, d.bs, len(d.area), ScmType.SPAPR_NVDIMM if d.spapr else ScmType.NVDIMM,
            PHYP if d.phyp else QEMU, is_unarmed=d.unarmed, is_readonly=d.readonly,
        )
        for d in devices
    )  # fmt: skip
    others = (ConnectorConfig(GUEST, 0x90000007), ConnectorConfig(GUEST, 0x80000010, DrcType.LMB))
    config = ScmHypervisorConfig(configs, others, PHYP if kind == "phyp" else QEMU)
    devices.sort(key=lambda d: d.drc)
    rig = Rig(config)
    for d in devices:
        rig.scm.device(GUEST, d.drc).store.write(0, bytes(d.area))
    return rig, Naive(devices, kind == "phyp", MEMORY)


TOKEN_AT = {0x3EC: 4, 0x3F0: 3, 0x3FC: 2, 0x44C: 1}
DRCS = [0x90000000] * 6 + [0x90000001, 0x44100002, 0x44100002, 0x90000005]
BAD_DRCS = [0x90000007, 0x80000010, 0, ANY, 0xDEAD000090000000]
EDGES = [0, 1, 3, 8, 16, 56, 60, 63, 64, (1 << 32) + 8, 1 << 63, U64 - 8, U64 - 2, U64 - 1]


class Draw:
    """Registers that are right most of the time, and on an edge or anywhere else."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def number(self, low=0, high=6):
        r = self.random
        match r.randrange(12):
            case 0:
                return r.choice(EDGES)
            case 1:
                return r.getrandbits(64)
            case _:
                return r.randint(low, high)

    def drc(self):
        return self.random.choice(BAD_DRCS if self.random.random() < 0.08 else DRCS)

    def address(self):
        r = self.random
        near = [BASE + 1, U64 - BS, U64 - 2 * BS, 0x80000000, 0, 0x8000]
        return BASE + r.randint(0, 24) * BS if r.random() < 0.8 else r.choice([*near, r.getrandbits(64)])

    def token(self):
        r = self.random
        if r.random() < 0.85:
            return 0
        return r.choice([r.randint(1, 5), r.choice([0x1000, 0x2000, 0x3000, 0x4000]) + r.randint(1, 9), U64 - 1])

    def length(self):
        return self.random.choice([1, 2, 4, 8]) if self.random.random() < 0.85 else self.number(0, 16)

    def data(self, n):
        bits = 8 * n if 0 < n <= 8 and self.random.random() < 0.8 else 64
        return self.random.getrandbits(bits)

    def call(self):
        opcode = self.random.choice(OPCODES)
        drc = self.drc()
        match opcode:
            case 0x3E4:
                args = (drc, self.number(0, 70), self.length())
            case 0x3E8:
                n = self.length()
                args = (drc, self.number(0, 70), self.data(n), n)
            case 0x3EC:
                target = self.address() if self.random.random() < 0.2 else ANY
                args = (drc, self.number(0, 3), self.number(0, 8), target, self.token())
            case 0x3F0:
                args = (drc, self.address(), self.number(0, 4), self.token())
            case 0x3FC:
                args = (self.random.choice([1, 2, 2, 2, self.number()]), drc, self.token())
            case 0x3F4:
                args = (drc, self.number())
            case 0x3F8:
                args = (self.address() + self.random.randrange(BS),)
            case 0x418:
                args = (drc, self.number(0, 1) * 0x400 % U64, self.number(0, 2) * 16 % U64)
            case 0x400:
                args = (drc,)
            case _:
                args = (drc, self.token())
        return opcode, args


def image(args, written):
    """r4 to r12 after a call."""
    sent = [*args, *(0 for _ in range(MAX_ARGS - len(args)))]
    return {**dict(enumerate(sent, 4)), **written}


def run(kind, seed, seen):
    """120 random calls on both; counts what happened in ``seen``."""
    rig, naive = world(kind)
    draw = Draw(seed)
    busy = []
    for _ in range(120):
        chance = draw.random.random()
        if chance < 0.06:
            error = 5 * (chance < 0.02)
            naive.flush_done(error)
            if rig.flushes:
                rig.finish_flush(error)
            continue
        if chance < 0.07:
            naive.reset()
            while rig.flushes:  # nobody hears of them any more
                rig.finish_flush()
            rig.die()
            rig.start()
            continue
        is_next = bool(busy) and chance < 0.35
        opcode, args = busy.pop(draw.random.randrange(len(busy))) if is_next else draw.call()
        rc, outs = rig.raw(opcode, *args)
        expected_rc, written = naive.call(opcode, *args)
        got = rc, image(args, dict(enumerate(outs, 4)))
        assert got == (expected_rc, image(args, written)), (hex(opcode), [hex(arg) for arg in args])
        seen[kind, opcode, rc, is_next] += 1
        if is_busy(rc):
            repeated = list(args)
            repeated[TOKEN_AT[opcode]] = outs[0]
            busy.append((opcode, tuple(repeated)))
        compare_state(rig, naive)


def compare_state(rig, naive):
    for d in naive.devices:
        assert rig.scm.device(GUEST, d.drc).store.read(0, len(d.area)) == d.area
        if d.phyp:
            bound = rig.scm.device(GUEST, d.drc).bindings
            assert {r.first + n: r.address + n * d.bs for r in bound for n in range(r.blocks)} == d.at


KINDS = ["qemu", "phyp", "both"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, (1 << 32) - 1))
def test_random_calls_agree_with_the_naive_model(kind, seed):
    run(kind, seed, Counter())


def test_the_same_calls_from_fixed_seeds_go_everywhere():
    """Otherwise agreement would prove little."""
    seen = Counter()
    for kind in KINDS:
        for seed in range(40):
            run(kind, seed, seen)
    codes = {}
    for kind, opcode, rc, _ in seen:
        codes.setdefault((kind, opcode), set()).add(rc)
    assert codes["qemu", 0x3E4] == codes["phyp", 0x3E4] == {0, -4, -55, -56}
    assert codes["qemu", 0x3E8] == codes["phyp", 0x3E8] == {0, -4, -55, -57}
    assert codes["qemu", 0x3EC] == {0, -4, -55, -56, -58, -68}
    assert codes["phyp", 0x3EC] == {0, 1, -4, -55, -56, -57, -58, -68}
    assert codes["qemu", 0x3F0] == {0, -4, -55, -56, -57}
    assert codes["phyp", 0x3F0] == {0, 9900, -4, -55, -56, -57}
    assert codes["both", 0x3FC] == {0, 9900, -4, -55, -57}
    assert codes["phyp", 0x44C] == {0, 1, -1, -4, -55}
    assert codes["qemu", 0x44C] == {0, 9901, -1, -4, -55}
    assert codes["phyp", 0x3F8] == {0, -7}
    assert codes["phyp", 0x3F4] == {0, -4, -7, -55}
    assert codes["both", 0x418] == {0, -2, -4, -55, -56}
    assert {(opcode, rc) for _, opcode, rc, is_next in seen if is_next} >= {
        (0x3EC, 0), (0x3EC, 1), (0x3EC, -58), (0x3F0, 0), (0x3FC, 0), (0x3FC, -57), (0x44C, 0), (0x44C, -1),
    }  # fmt: skip


edge = st.sampled_from(EDGES)
drcs = st.sampled_from(DRCS + BAD_DRCS)
registers = st.one_of(
    st.integers(0, U64 - 1), edge, drcs, st.integers(0, 30).map(lambda n: BASE + n * BS), st.integers(-2, 1 << 65)
)
opcodes = st.one_of(
    st.sampled_from(sorted({*OPCODES, 0xFC, 0x110, 0x13C, 0, 3, -4, 1 << 63, 1 << 70, 0xF001})), st.integers()
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(opcodes, st.lists(registers, max_size=11)), max_size=12), st.booleans())
def test_whatever_the_registers_hold(made, mapped):
    rig, _ = world("both")
    rig.mapped = mapped
    rig.die()
    rig.start()
    for opcode, args in made:
        rig.results.clear()
        rig.feed(HcallRequest(GUEST, 7, opcode, tuple(args)))
        assert len(rig.results) == 1
        assert all(0 <= out < U64 for out in rig.results[0].outs)
