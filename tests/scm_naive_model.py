"""The rules of the SCM hcalls a second time, as tables: for comparison only, written from the sheet and not from pvnet.

Every hcall is a list of rows (refusal, rc), tried from the top, and an effect for when no row applies.  State is the
most stupid one possible: a dictionary per block, a list of open operations, bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

ANY = 2**64 - 1
STEP = 3
ROUNDS = 1


@dataclass
class Dev:
    drc: int
    blocks: int
    base: int
    bs: int
    phyp: bool
    spapr: bool = True
    unarmed: bool = False
    readonly: bool = False
    area: bytearray = field(default_factory=lambda: bytearray(64))
    at: dict[int, int] = field(default_factory=dict)
    failed: bool = False
    next_flush: int = 0


class Naive:
    def __init__(self, devices: list[Dev], phyp: bool, memory: int) -> None:
        self.devices = devices
        self.phyp = phyp
        self.memory = memory
        self.ops: list[SimpleNamespace] = []
        self.used: dict[tuple[int, int | None], int] = {}

    # -- helpers

    def dev(self, register: int) -> Dev | None:
        return next((d for d in self.devices if d.drc == register % 2**32), None)

    def op(self, opcode: int, where: int | None, token: int, key: tuple[int, ...]) -> SimpleNamespace | None:
        return next((o for o in self.ops if (o.opcode, o.where, o.token, o.key) == (opcode, where, token, key)), None)

    def token(self, opcode: int, where: int | None, phyp: bool) -> int:
        firsts = {0x3EC: 0x1001, 0x3FC: 0x2001, 0x44C: 0x3001, 0x3F0: 0x4001}
        n = self.used.get((opcode, where), 0)
        self.used[opcode, where] = n + 1
        return (firsts[opcode] if phyp else 1) + n

    def taken(self) -> list[tuple[int, int, int, int]]:
        """(drc, block, first address, last address) of all that is bound or being bound."""
        got = []
        for d in self.devices:
            blocks = d.at.items() if d.phyp else [(n, d.base + n * d.bs) for n in range(d.blocks)]
            got += [(d.drc, n, a, a + d.bs - 1) for n, a in blocks]
        for o in self.ops:
            if o.opcode == 0x3EC:
                got += [(o.dev.drc, n, a, a + o.dev.bs - 1) for n, a in o.todo]
        return got

    # -- the calls

    def call(self, opcode: int, *given: int) -> tuple[int, dict[int, int]]:
        a = [*given, *[0] * (9 - len(given))]
        extra = {0x3F4, 0x3F8, 0x418}
        known = {0x3E4, 0x3E8, 0x3EC, 0x3F0, 0x3FC, 0x400, 0x44C} | extra
        if opcode not in known:
            return -2, {}
        if opcode in extra and not self.phyp and not any(d.phyp for d in self.devices):
            return -2, {}
        if opcode == 0x3FC:
            return self.unbind_all(a)
        if opcode == 0x3F8:
            found = [(d.drc, n) for d in self.devices for n, at in d.at.items() if at <= a[0] < at + d.bs]
            return (0, {4: found[0][0], 5: found[0][1]}) if found else (-7, {})
        d = self.dev(a[0])
        if d is None:
            return -4, {}
        if opcode in extra and not d.phyp:
            return -2, {}
        rows, effect = getattr(self, f"call_{opcode:x}")(d, a)
        for refused, rc in rows:
            if refused():
                return rc, {}
        return effect()

    def call_3e4(self, d, a):
        def effect():
            value = 0
            for byte in d.area[a[1] : a[1] + a[2]]:
                value = value * 256 + byte
            if not d.phyp and a[2] == 4 and value >= 2**31:
                value += 2**64 - 2**32
            return 0, {4: value}

        return [(lambda: a[2] not in (1, 2, 4, 8), -56), (lambda: a[1] + a[2] > len(d.area), -55)], effect

    def call_3e8(self, d, a):
        def effect():
            for n in range(a[3]):
                d.area[a[1] + a[3] - 1 - n] = a[2] // 256**n % 256
            return 0, {}

        return [
            (lambda: a[3] not in (1, 2, 4, 8), -57),
            (lambda: a[1] + a[3] > len(d.area), -55),
            (lambda: d.readonly, -55),
            (lambda: a[2] >= 256 ** a[3], -55),
        ], effect

    def call_3ec(self, d, a):
        if a[4] and d.phyp:
            o = self.op(0x3EC, d.drc, a[4], (a[1], a[2], a[3]))
            return [(lambda: o is None, -58)], lambda: self.bind_on(o, a)
        to = [(n, (d.base + n * d.bs if a[3] == ANY else a[3] + (n - a[1]) * d.bs)) for n in range(a[1], d.blocks)]
        to = to[: a[2]]
        first = d.base + a[1] * d.bs if a[3] == ANY else a[3]

        def effect():
            if not d.phyp or not to:
                return 0, {5: first, 6: a[2]}
            o = SimpleNamespace(
                opcode=0x3EC,
                where=d.drc,
                token=0,
                key=(a[1], a[2], a[3]),
                dev=d,
                todo=to,
                first=first,
                blocks=[n for n, _ in to],
            )
            return self.bind_on(o, a)

        def overlaps():
            wanted = [(d.drc, n, at, at + d.bs - 1) for n, at in to]
            return any(
                x[3] < 0 or (x[0], x[1]) == (y[0], y[1]) or (x[2] <= y[3] and y[2] <= x[3])
                for x in wanted
                for y in self.taken()
            ) or any(at < self.memory for _, at in to)

        return [
            (lambda: a[4] > 0, -58),
            (lambda: a[3] != ANY and not d.phyp, -68),
            (lambda: a[3] != ANY and a[3] % d.bs != 0, -57),
            (lambda: a[3] != ANY and a[3] + a[2] * d.bs > 2**64, -57),
            (lambda: a[1] > d.blocks, -55),
            (lambda: a[1] + a[2] > d.blocks, -56),
            (lambda: d.phyp and overlaps(), -68),
        ], effect

    def bind_on(self, o, a):
        for n, at in o.todo[:STEP]:
            o.dev.at[n] = at
        o.todo = o.todo[STEP:]
        if o in self.ops:
            self.ops.remove(o)
        if not o.todo:
            return 0, {5: o.first, 6: a[2]}
        o.token = self.token(0x3EC, o.where, True)
        self.ops.append(o)
        return 1, {4: o.token, 5: o.first, 6: a[2] - len(o.todo)}

    def call_3f0(self, d, a):
        end = a[1] + a[2] * d.bs
        if a[3] and d.phyp:
            o = self.op(0x3F0, d.drc, a[3], (a[1], a[2]))
            return [(lambda: o is None, -57)], lambda: self.unbind_on(o, {5: a[2]})

        def effect():
            if not d.phyp:
                return 0, {5: a[2]}
            what = [(d, n) for n, x in d.at.items() if a[1] <= x < end]
            return self.unbind_start(0x3F0, d.drc, (a[1], a[2]), what, {5: a[2]})

        return [
            (lambda: a[3] > 0, -57),
            (lambda: a[1] % d.bs != 0, -55),
            (lambda: a[2] == 0 or end > 2**64, -56),
            (lambda: not d.phyp and (a[1] < d.base or end > d.base + d.blocks * d.bs), -56),
            (lambda: d.phyp and sum(a[1] <= x < end for x in d.at.values()) != a[2], -56),
        ], effect

    def unbind_all(self, a):
        scope, where = a[0], a[1] % 2**32 if a[0] == 2 else None
        d = self.dev(a[1]) if scope == 2 else None
        phyp = self.phyp if where is None or d is None else d.phyp
        concerned = self.devices if scope == 1 else [d]
        if a[2]:
            o = self.op(0x3FC, where, a[2], (scope,))
            if o is None:
                return -57, {}
            return self.unbind_on(o, self.told(phyp, [d for d, _ in o.what], concerned))
        if scope not in (1, 2):
            return -4, {}
        if scope == 2 and d is None:
            return -55, {}
        self.ops = [o for o in self.ops if not (o.opcode == 0x3EC and o.dev in concerned)]
        what = [(d, n) for d in concerned if d.phyp for n in d.at]
        return self.unbind_start(0x3FC, where, (scope,), what, self.told(phyp, [d for d, _ in what], concerned))

    def told(self, phyp, owners, concerned):
        """Register 5 of UNBIND_ALL, where it is written."""
        return {} if phyp else {5: len(owners) + sum(d.blocks for d in concerned if not d.phyp)}

    def unbind_start(self, opcode, where, key, what, told):
        self.ops = [
            o
            for o in self.ops
            if not (o.opcode == 0x3EC and any(d is o.dev and n in o.blocks for d, n in what))
            and not (o.opcode in (0x3F0, 0x3FC) and any(x in o.what for x in what))
        ]
        o = SimpleNamespace(opcode=opcode, where=where, key=key, what=what, token=0, rounds=ROUNDS if what else 0)
        return self.unbind_on(o, told)

    def unbind_on(self, o, told):
        if o in self.ops:
            self.ops.remove(o)
        if o.rounds:
            o.rounds -= 1
            d = self.dev(o.where) if o.where is not None else None
            o.token = self.token(o.opcode, o.where, self.phyp if d is None else d.phyp)
            self.ops.append(o)
            return 9900, {4: o.token}
        for d, n in o.what:
            d.at.pop(n, None)
        return 0, told

    def call_3f4(self, d, a):
        return [(lambda: a[1] >= d.blocks, -55), (lambda: a[1] not in d.at, -7)], lambda: (0, {4: d.at[a[1]]})

    def call_400(self, d, a):
        bits = 2**63 * d.unarmed
        if d.phyp:
            bits += 2**57 * d.failed
        return [], lambda: (0, {4: bits, 5: 2**63 if not d.phyp else 2**64 - 2**54})

    def call_418(self, d, a):
        # Only what needs no memory; the guest's memory is all zero here.
        return [
            (lambda: a[1] == 0 and a[2] != 0, -55),
            (lambda: a[1] != 0 and a[2] < 16, -56),
            (lambda: a[1] + a[2] > self.memory, -55),
            (lambda: a[1] != 0, -55),
        ], lambda: (0, {4: 16 + 16 * 16})

    def call_44c(self, d, a):
        o = self.op(0x44C, d.drc, a[1], ())
        busy = 1 if d.phyp else 9901

        def effect():
            if a[1]:
                if o.rc is None:
                    return busy, {4: a[1]}
                self.ops.remove(o)
                return o.rc, {}
            new = self.token(0x44C, d.drc, d.phyp)
            self.ops.append(SimpleNamespace(opcode=0x44C, where=d.drc, token=new, key=(), rc=None, dev=d))
            return busy, {4: new}

        return [(lambda: not d.spapr, -4), (lambda: a[1] > 0 and o is None, -55)], effect

    # -- what happens around

    def flush_done(self, error: int) -> None:
        """The oldest flush under way has finished."""
        o = next((o for o in self.ops if o.opcode == 0x44C and o.rc is None), None)
        if o is not None:
            o.rc = -1 if error else 0
            o.dev.failed |= bool(error)

    def reset(self) -> None:
        self.ops.clear()
