"""The link against the worst network that Hypothesis can think of: what the ledger of ``link_world`` says must hold."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from transport.link_world import World

from pvnet.transport.link import LinkConfig
from pvnet.transport.link_parts import Life

NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)
pairs = st.sampled_from([(x, y) for x in NAMES for y in NAMES if x != y])


class Adversary(RuleBasedStateMachine):
    world: World

    @initialize(window=st.integers(1, 4), ack_every=st.integers(1, 4), dead_kept=st.integers(0, 3), met=st.booleans())
    def begin(self, window: int, ack_every: int, dead_kept: int, met: bool) -> None:
        config = LinkConfig(window=window, ack_every=ack_every, dead_kept=dead_kept, backlog=5, resend_burst=2)
        self.world = World(NAMES, config)
        if met:
            for one in NAMES:
                for other in NAMES:
                    if one != other:
                        self.world.watch(one, other)
            self.world.deliver_all()

    # --- the program ------------------------------------------------------------------------------------------------

    @rule(pair=pairs, count=st.integers(1, 6))
    def send(self, pair: tuple[str, str], count: int) -> None:
        if self.world.nodes[pair[0]].running:
            for _ in range(count):
                self.world.send(*pair)

    @rule(pair=pairs)
    def watch(self, pair: tuple[str, str]) -> None:
        if self.world.nodes[pair[0]].running:
            self.world.watch(*pair)

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.5, 1.1, 3.0, 16.0]), deliver=st.booleans())
    def wait(self, seconds: float, deliver: bool) -> None:
        self.world.pass_time(seconds, deliver=deliver)

    # --- the network ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.frames)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.world.deliver_frame(data.draw(st.integers(0, len(self.world.frames) - 1)))

    @precondition(lambda self: self.world.frames)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        self.world.deliver_frame(data.draw(st.integers(0, len(self.world.frames) - 1)), keep=True)

    @precondition(lambda self: self.world.frames)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        del self.world.frames[data.draw(st.integers(0, len(self.world.frames) - 1))]

    @precondition(lambda self: self.world.frames)
    @rule()
    def deliver_burst(self) -> None:
        for _ in range(min(8, len(self.world.frames))):
            if self.world.frames:
                self.world.deliver_frame()

    @rule(name=names)
    def deliver_state(self, name: str) -> None:
        self.world.deliver_state(name)

    @rule()
    def deliver_all(self) -> None:
        self.world.deliver_all()

    @rule(name=names, will=st.booleans())
    def cut(self, name: str, will: bool) -> None:
        self.world.cut(name, will=will)

    @rule(name=names, quiet=st.booleans(), back=st.booleans())
    def isolate(self, name: str, quiet: bool, back: bool) -> None:
        """Long enough for the others to declare it dead; frames under way to them may arrive before or long after."""
        world = self.world
        world.cut(name)
        for node in world.nodes.values():
            while node.online and node.states:
                world.deliver_state(node.name)
        world.pass_time(1.2, deliver=not quiet)
        if back:
            world.connect(name)

    @rule(name=names)
    def deliver_states(self, name: str) -> None:
        while self.world.nodes[name].states:
            self.world.deliver_state(name)

    @rule(name=names)
    def notice(self, name: str) -> None:
        self.world.notice(name)

    @rule(name=names, late_will=st.booleans())
    def reconnect(self, name: str, late_will: bool) -> None:
        self.world.connect(name, late_will=late_will)

    @rule()
    def broker_down(self) -> None:
        self.world.broker_down()

    @rule()
    def broker_up(self) -> None:
        self.world.broker = True

    @rule(pair=pairs)
    def open_path(self, pair: tuple[str, str]) -> None:
        self.world.open_path(*pair)

    @rule(pair=pairs)
    def break_path(self, pair: tuple[str, str]) -> None:
        self.world.break_path(*pair)

    @rule(name=names)
    def deliver_news(self, name: str) -> None:
        self.world.deliver_news(name)

    # --- the processes ----------------------------------------------------------------------------------------------

    @rule(name=names)
    def kill(self, name: str) -> None:
        self.world.kill(name)

    @rule(name=names)
    def stop(self, name: str) -> None:
        self.world.stop(name)

    @rule(name=names)
    def restart(self, name: str) -> None:
        if not self.world.nodes[name].running and self.world.broker:
            self.world.boot(name)

    # --- in the end ---------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.heal()
        self.all_is_well()
        living = [name for name, node in world.nodes.items() if node.running]
        for source in living:
            for destination in living:
                if source != destination:
                    world.send(source, destination)
        world.pass_time(200.0, deliver=True)
        self.all_is_well()
        for name in living:
            peers = world.nodes[name].link.peers
            assert set(peers) == set(living) - {name}, f"{name} does not know all who live"
        quiet = world.frames_sent
        world.pass_time(1000.0, deliver=True)
        assert world.frames_sent == quiet, "the nodes talk although nobody has anything to say"

    def all_is_well(self) -> None:
        world = self.world
        assert not world.missing()
        for node in world.nodes.values():
            if not node.running:
                continue
            assert not node.superseded
            for peer in node.link._peers.values():
                other = world.nodes[peer.name]
                assert not peer.unacked
                assert not peer.early
                if not other.running:
                    assert not peer.alive, f"{node.name} believes that the dead {peer.name} lives"
                    continue
                if peer.alive:
                    assert peer.incarnation == other.incarnation
                assert peer.alive or not peer.backlog.count
                mine = other.link._peers.get(node.name)
                if peer.incarnation == other.incarnation and peer.life is Life.FENCED:
                    raise AssertionError(f"{node.name} has given up {peer.name} for ever, although it lives")
                if peer.alive and mine is not None and mine.alive:
                    assert peer.rx_stream == mine.stream
                    self.both_told(node.name, peer.name)

    def both_told(self, one: str, other: str) -> None:
        """Who was given up by a peer's incarnation that it knew was told so."""
        node, peer = self.world.nodes[one], self.world.nodes[other]
        seen = [(at, what) for at, what, name, inc in peer.told_at if (name, inc) == (one, node.incarnation)]
        for gave_up_at, what, name, incarnation in node.told_at:
            if (what, name, incarnation) != ("down", other, peer.incarnation):
                continue
            before = [at for at, event in seen if event == "up" and at < gave_up_at]
            if before:
                told = [at for at, event in seen if event == "down" and at > before[-1]]
                assert told, f"{one} gave {other} up, which never learned it"


Adversary.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestAdversary = Adversary.TestCase
