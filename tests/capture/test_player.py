"""The schedule: absolute times, selection, names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.capture.model import LINKTYPE_ETHERNET, LINKTYPE_HCALL, Direction, Interface, Record
from pvnet.capture.player import BATCH, NS, Pace, Player, Selection, body_of, parse_map, rename
from pvnet.core.errors import ConfigError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, PowerOn
from pvnet.pb.v1.papr_pb2 import Hcall, Irq

BASE = 1_700_000_000 * NS
CRQ, CALL = Interface("lpar2/crq"), Interface("mp/call")


def at(seconds: float | None, interface: Interface = CRQ, data: bytes = b"") -> Record:
    return Record(interface, None if seconds is None else BASE + round(seconds * NS), data, Direction.OUT)


def player(*records: Record, **more: object) -> Player:
    selection = more.pop("selection", Selection())
    assert isinstance(selection, Selection)
    return Player(lambda: records, Pace(**more), selection)  # type: ignore[arg-type]


def times(made: Player, lateness: float = 0.0, now: float = 100.0) -> list[float]:
    """Play with a clock that is always late by so much; the times at which records were due."""
    made.begin(now)
    due: list[float] = []
    while not made.is_done:
        now = max(now, (made.deadline() or now) + lateness)
        found = made.take(now)
        assert found
        due += [item.at_s - 100.0 for item in found]
    return due


def test_ten_minutes_end_on_time_however_late_every_wake_up_is() -> None:
    made = player(*(at(i * 0.1) for i in range(6001)))
    now, end = 50.0, 0.0
    made.begin(now)
    while not made.is_done:
        now = (made.deadline() or now) + 0.009  # 6001 times 9 ms would be 54 s
        end = now if made.take(now) else end
    assert end - 50.0 == pytest.approx(600.0, abs=0.01)


def test_speed_divides_and_max_does_not_wait() -> None:
    records = [at(0), at(1), at(3)]
    assert times(player(*records, speed=2.0)) == [0, 0.5, 1.5]
    assert times(player(*records, speed=0.5)) == [0, 2, 6]
    assert times(player(*records, speed=None)) == [0, 0, 0]


def test_a_long_pause_lasts_as_long_as_it_may() -> None:
    assert times(player(at(0), at(1), at(3601), at(3601.5), skip_gaps_s=2.0)) == [0, 1, 3, 3.5]
    assert times(player(at(0), at(10), skip_gaps_s=0.0)) == [0, 0]
    assert times(player(at(0), at(10), skip_gaps_s=4.0, speed=2.0)) == [0, 2]


def test_records_without_a_time_or_with_an_earlier_one_come_with_the_one_before() -> None:
    assert times(player(at(None), at(0), at(None), at(2), at(1), at(3))) == [0, 0, 0, 2, 2, 4]


def test_loops_follow_each_other_at_once() -> None:
    made = player(at(0), at(1), loops=3)
    assert times(made) == [0, 1, 1, 2, 2, 3]
    assert (made.played, made.loop, made.position_s) == (6, 3, 3.0)


def test_an_endless_loop_returns_in_batches_and_an_empty_one_ends() -> None:
    made = player(at(0), loops=None, speed=None)
    made.begin(0.0)
    assert len(made.take(0.0)) == BATCH
    assert not made.is_done
    empty = player(loops=None)
    empty.begin(0.0)
    assert empty.is_done
    assert empty.deadline() is None


def test_a_pause_makes_everything_later() -> None:
    made = player(at(0), at(1))
    made.begin(0.0)
    assert len(made.take(0.0)) == 1
    made.pause(0.5)
    made.pause(0.7)
    assert made.deadline() is None
    assert made.take(5.0) == []
    made.resume(10.5)
    assert made.deadline() == 11.0


def test_steps_do_not_look_at_the_clock() -> None:
    made = player(at(0), at(1000), step=True)
    made.begin(0.0)
    assert made.take(5000.0) == []
    assert made.deadline() is None
    assert [made.step() is not None for _ in range(3)] == [True, True, False]


def test_from_and_to_count_from_the_first_record() -> None:
    records = [at(None), at(0), at(1), at(None), at(2), at(3)]
    found = list(Selection(start_s=1, end_s=2).select(records))
    assert found == [records[2], records[3], records[4]]
    assert list(Selection(end_s=0.5).select(records)) == records[:2]


def test_patterns_name_node_channel_interface_or_body() -> None:
    hcall = at(0, CALL, Envelope(hcall=Hcall(opcode=4)).SerializeToString())
    irq = at(0, CRQ, Envelope(irq=Irq(unit=1)).SerializeToString())
    frame = at(0, Interface("bridge/net0", LINKTYPE_ETHERNET), b"x")

    def fit(**more: tuple[str, ...]) -> list[Record]:
        return list(Selection(**more).select([hcall, irq, frame]))

    assert fit(only=("mp",)) == [hcall]
    assert fit(only=("crq", "hcall*")) == [hcall, irq]
    assert fit(only=("lpar?/*",)) == [irq]
    assert fit(skip=("irq",)) == [hcall, frame]
    assert fit(only=("*",), skip=("ethernet",)) == [hcall, irq]
    assert [body_of(r) for r in (at(0, CRQ, b"\xff"), at(0, Interface("x/y", LINKTYPE_HCALL)))] == ["", "hcall_trace"]


@pytest.mark.parametrize(
    "wrong",
    [{"speed": 0.0}, {"speed": float("nan")}, {"loops": 0}, {"skip_gaps_s": -1.0}, {"skip_gaps_s": float("nan")}],
)
def test_a_pace_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Pace(**wrong)  # type: ignore[arg-type]


def test_to_before_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a time after"):
        Selection(start_s=2, end_s=1)


def test_names_are_mapped_everywhere() -> None:
    envelope = Envelope(source="mp", destination="lpar2", management=Management(power_on=PowerOn(name="lpar2")))
    record = rename(at(0, CRQ, envelope.SerializeToString()), parse_map(["lpar2=x", "mp=y"]))
    changed = record.envelope()
    assert changed is not None
    assert (changed.source, changed.destination, changed.management.power_on.name) == ("y", "x", "x")
    assert record.interface.name == "x/crq"
    other = at(0, CALL, b"\xff")
    assert rename(other, {"mp": "z"}).interface.name == "z/call"
    assert rename(other, {"q": "z"}) == other
    assert rename(other, {}) is other


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a=b=c"])
def test_what_is_no_renaming_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="OLD=NEW"):
        parse_map([text])


def test_one_name_cannot_become_two() -> None:
    with pytest.raises(ConfigError, match="already"):
        parse_map(["a=b", "a=c"])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e5)), min_size=1, max_size=20),
    st.floats(0.01, 100),
    st.floats(0, 5),
)
def test_lateness_never_moves_a_due_time(moments: list[float | None], speed: float, lateness: float) -> None:
    records = [at(moment) for moment in moments]
    assert times(player(*records, speed=speed), lateness) == times(player(*records, speed=speed))
