"""Partitions that are defined, redefined and removed while others run, in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from papr_platform_rig import (
    CLIENT,
    CLIENT_LOCAL,
    INIT,
    MEMORY,
    SERVER,
    SERVER_LOCAL,
    SERVER_REMOTE,
    UNIT,
    Rig,
    numbered,
)
from papr_platform_rig import config as rig_config

from pvnet.core.errors import LocalError
from pvnet.papr.hcall import HcallOpcode as Op
from pvnet.papr.hcall import HcallRc as Rc
from pvnet.papr.platform_io import (
    AdapterConfig,
    DefinePartition,
    HcallResult,
    PartitionConfig,
    RemovePartition,
)

MP, LPAR = rig_config().partitions


def test_a_partition_that_runs_does_not_change() -> None:
    rig = Rig(mapped=False)
    rig.start("mp")
    for event in (DefinePartition(MP), RemovePartition("mp")):
        with pytest.raises(LocalError, match="expected to be off"):
            rig.feed(event)
    with pytest.raises(LocalError, match="no partition nobody"):
        rig.feed(RemovePartition("nobody"))
    twice = replace(LPAR, adapters=LPAR.adapters * 2)
    with pytest.raises(LocalError, match="used twice"):
        rig.feed(DefinePartition(twice))
    rig.start("lpar")
    assert rig.open("lpar", CLIENT, CLIENT_LOCAL) == Rc.H_CLOSED, "it is as it was, with its partner"


def test_a_new_partition_makes_calls_and_a_removed_one_is_a_stranger() -> None:
    rig = Rig(mapped=False)
    config = PartitionConfig("new", MEMORY, (AdapterConfig(UNIT, liobn=0x5000_0000, window_bytes=MEMORY),))
    rig.feed(DefinePartition(config))
    rig.start("new")
    assert rig.open("new", UNIT, 0x5000_0000) == Rc.H_CLOSED
    rig.take(rig.platform.partner_register("new", UNIT))
    rig.take(rig.platform.partner_post("new", UNIT, numbered(1)))
    assert rig.consume("new", UNIT) == [numbered(1)]
    rig.die("new")
    rig.feed(RemovePartition("new"))
    assert rig.call("new", Op.H_FREE_CRQ, UNIT) == Rc.H_AUTHORITY
    with pytest.raises(LocalError):
        rig.platform.partner_register("new", UNIT)


def test_a_redefined_partition_has_its_new_memory() -> None:
    rig = Rig(mapped=True)
    larger = 2 * MEMORY
    rig.feed(DefinePartition(replace(LPAR, memory_bytes=larger)))
    with pytest.raises(LocalError, match="configured"):
        Rig(mapped=True, platform=rig.platform, later=True).start("lpar")


class ChangingPair(RuleBasedStateMachine):
    """``mp`` and ``lpar`` have or have not the ends of a pair; who runs keeps the ends that it was started with."""

    @initialize()
    def begin(self) -> None:
        self.rig = Rig(mapped=False)
        self.defined = {"mp": True, "lpar": True}
        """By partition that there is: whether it has its end."""
        self.running: set[str] = set()
        self.opened: set[str] = set()

    def ends(self, name: str) -> tuple[int, int]:
        return (SERVER, SERVER_LOCAL) if name == "mp" else (CLIENT, CLIENT_LOCAL)

    def config_of(self, name: str, *, has_end: bool) -> PartitionConfig:
        config = MP if name == "mp" else LPAR
        unit, _ = self.ends(name)
        return config if has_end else replace(config, adapters=tuple(a for a in config.adapters if a.unit != unit))

    def other(self, name: str) -> str:
        return "lpar" if name == "mp" else "mp"

    @rule(name=st.sampled_from(["mp", "lpar"]), has_end=st.booleans())
    def define(self, name: str, has_end: bool) -> None:
        event = DefinePartition(self.config_of(name, has_end=has_end))
        if name in self.running:
            with pytest.raises(LocalError):
                self.rig.feed(event)
        else:
            self.rig.feed(event)
            self.defined[name] = has_end

    @rule(name=st.sampled_from(["mp", "lpar"]))
    def remove(self, name: str) -> None:
        if name in self.running or name not in self.defined:
            with pytest.raises(LocalError):
                self.rig.feed(RemovePartition(name))
        else:
            self.rig.feed(RemovePartition(name))
            del self.defined[name]

    @rule(name=st.sampled_from(["mp", "lpar"]))
    def toggle(self, name: str) -> None:
        if name in self.running:
            self.rig.die(name)
            self.running.discard(name)
            self.opened.discard(name)
        elif name in self.defined:
            self.rig.start(name)
            self.running.add(name)

    @rule(name=st.sampled_from(["mp", "lpar"]))
    @precondition(lambda self: bool(self.running))
    def open(self, name: str) -> None:
        if name not in self.running or name in self.opened:
            return
        unit, liobn = self.ends(name)
        if not self.defined[name]:
            assert self.rig.call(name, Op.H_REG_CRQ, unit, 0x4000, 0x1000) == Rc.H_PARAMETER, "it has no such unit"
            return
        rc = self.rig.open(name, unit, liobn)
        joined = self.defined.get("mp", False) and self.defined.get("lpar", False)
        if not joined:
            assert rc == Rc.H_NOT_FOUND, "nobody is its partner"
        else:
            assert rc == (Rc.H_SUCCESS if self.other(name) in self.opened else Rc.H_CLOSED)
            self.opened.add(name)

    @rule(name=st.sampled_from(["mp", "lpar"]))
    def send(self, name: str) -> None:
        if name not in self.opened:
            return
        other, (unit, _) = self.other(name), self.ends(name)
        rc = self.rig.send(name, unit, INIT)
        if other in self.opened:
            assert rc == Rc.H_SUCCESS
            assert self.rig.consume(other, self.ends(other)[0])[-1] == INIT
        else:
            assert rc == Rc.H_CLOSED

    @invariant()
    def strangers_get_nothing(self) -> None:
        for name in ("mp", "lpar"):
            if name not in self.running:
                assert self.rig.call(name, Op.H_FREE_CRQ, UNIT) == Rc.H_AUTHORITY

    @invariant()
    def pane_two_is_the_partner_s_only_while_both_are_open(self) -> None:
        if "mp" in self.opened and "lpar" not in self.opened:
            rc = self.rig.call("mp", Op.H_COPY_RDMA, 16, SERVER_LOCAL, 0x4000, SERVER_REMOTE, 0x4000)
            assert rc not in (Rc.H_SUCCESS, -99999)
        assert all(isinstance(result, HcallResult) for result in self.rig.results.values())


TestChangingPair = ChangingPair.TestCase
TestChangingPair.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
