"""The link and direct paths: when the broker is away, when the path goes, when both do."""

from __future__ import annotations

from transport.link_world import World

from pvnet.transport.link import LinkConfig


def met(config: LinkConfig | None = None, *, path: bool = True) -> World:
    """Two nodes that know each other."""
    world = World(config=config)
    world.watch("a", "b")
    world.watch("b", "a")
    if path:
        world.open_path("a", "b")
    world.deliver_all()
    return world


def numbers(world: World, name: str) -> list[int]:
    return [envelope.hcall.opcode for envelope in world.nodes[name].delivered]


def test_a_peer_with_a_path_is_served_while_the_broker_is_away() -> None:
    world = met()
    world.broker_down()
    world.send("a", "b")
    assert [frame.socket is not None for frame in world.frames] == [True]
    world.frames.clear()  # lost: the clocks of this peer run on
    world.pass_time(1.5, deliver=True)
    assert numbers(world, "b") == [1]
    world.pass_time(100.0, deliver=True)
    assert world.nodes["a"].downs == world.nodes["b"].downs == []
    assert not world.nodes["a"].link._peers["b"].unacked


def test_a_peer_that_the_broker_has_lost_lives_as_long_as_its_path() -> None:
    world = met()
    world.cut("b")
    world.deliver_all()
    world.pass_time(100.0, deliver=True)
    assert world.nodes["a"].downs == []
    world.break_path("a", "b")
    world.deliver_all()
    world.pass_time(0.9, deliver=True)
    assert world.nodes["a"].downs == []
    world.pass_time(0.2, deliver=True)
    assert world.nodes["a"].downs == [("b", 1, "connection lost")]


def test_a_peer_whose_path_ends_while_the_broker_is_away_is_dead_after_the_grace() -> None:
    world = met()
    world.broker_down()
    world.kill("b")
    world.deliver_news("a")
    world.pass_time(0.9)
    assert world.nodes["a"].downs == []
    world.pass_time(0.2)
    assert world.nodes["a"].downs == [("b", 1, "connection lost")]


def test_a_peer_without_a_path_is_not_given_up_while_the_broker_is_away() -> None:
    world = met(path=False)
    world.broker_down()
    world.pass_time(1000.0)
    assert world.nodes["a"].downs == []


def test_what_a_broken_path_lost_is_repeated_over_the_broker_at_once() -> None:
    world = met()
    for _ in range(5):
        world.send("a", "b")
    world.break_path("a", "b")
    world.deliver_all()
    assert numbers(world, "b") == [1, 2, 3, 4, 5], "no time has passed"


def test_what_the_broker_lost_is_repeated_on_a_new_path_at_once() -> None:
    world = met(path=False)
    world.send("a", "b")
    world.broker_down()
    world.send("a", "b")
    world.open_path("a", "b")
    world.deliver_all()
    assert numbers(world, "b") == [1, 2]


def test_a_new_path_repeats_nothing_that_the_broker_carries() -> None:
    world = met(path=False)
    world.send("a", "b")
    world.open_path("a", "b")
    world.deliver_all()
    assert numbers(world, "b") == [1]
    assert world.nodes["a"].link.counters["resent"] == 0


def test_a_path_that_comes_back_in_time_saves_the_peer() -> None:
    world = met()
    world.broker_down()
    world.send("a", "b")
    world.break_path("a", "b")
    world.deliver_news("a")
    world.deliver_news("b")
    world.pass_time(0.5)
    world.open_path("a", "b")
    world.deliver_all()
    world.pass_time(50.0, deliver=True)
    assert numbers(world, "b") == [1]
    assert world.nodes["a"].downs == world.nodes["b"].downs == []


def test_a_peer_that_was_given_up_without_a_broker_starts_anew_on_the_next_path() -> None:
    world = met()
    world.broker_down()
    world.break_path("a", "b")
    world.deliver_all()
    world.pass_time(2.0, deliver=True)
    assert [node.downs for node in world.nodes.values()] == [
        [("b", 1, "connection lost")],
        [("a", 1, "connection lost")],
    ]
    world.open_path("a", "b")
    world.pass_time(1.5, deliver=True)
    assert world.nodes["a"].up == {"b": 1}
    assert world.nodes["b"].up == {"a": 1}
    world.send("a", "b")
    world.deliver_all()
    assert len(numbers(world, "b")) == 1


def test_the_path_of_an_earlier_life_says_nothing_about_this_one() -> None:
    world = met()
    world.kill("b")
    world.boot("b")
    world.watch("b", "a")
    while world.nodes["a"].states:
        world.deliver_state("a")
    downs = list(world.nodes["a"].downs)
    assert downs == [("b", 1, "restarted")]
    world.deliver_all()  # the news that the old path is gone
    world.pass_time(100.0, deliver=True)
    assert world.nodes["a"].downs == downs
    assert world.nodes["a"].up == {"b": 2}
