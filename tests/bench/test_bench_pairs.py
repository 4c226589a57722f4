"""Pairs of processes: every contender delivers every message, what is wrong is counted, and nothing stays behind."""

import json
import os
import signal
import struct
from pathlib import Path

import pytest

from pvnet.bench import pair as pairs
from pvnet.bench.messages import BATCH, BATCHES, MESSAGE_BYTES, MESSAGES, PERIOD, message, wrong_ones, wrong_rows
from pvnet.bench.pair import Pair, Plan, compare_pairs, open_pair
from pvnet.bench.pair_end import ENDS, Order, Received, Told, obey
from pvnet.bench.placement import Placement
from pvnet.core.errors import UnreachableError

ONE_WAY = [name for name in ENDS if name != "eventfd"]
TOGETHER = Placement.together()


def ends_of(parent: int) -> list[int]:
    """The processes that are ends of pairs and ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat, command = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[1] == str(parent) and b"pvnet.bench.pair_end" in command:
            found.append(int(entry.name))
    return found


def threads_of(process: int) -> list[int]:
    return [int(entry.name) for entry in Path(f"/proc/{process}/task").iterdir()]


# --- the messages -----------------------------------------------------------------------------------------------------


def test_messages_are_all_different_and_repeat_after_a_period() -> None:
    assert len(set(MESSAGES)) == PERIOD == 61 * BATCH
    assert {len(one) for one in MESSAGES} == {MESSAGE_BYTES}
    assert message(PERIOD + 5) == MESSAGES[5] == MESSAGES[PERIOD + 5]
    assert [one for batch in BATCHES for one in batch] == MESSAGES[:PERIOD]


def test_an_old_message_of_a_ring_is_never_the_one_that_is_due() -> None:
    for slots in (256, 1024, 4096, 16384):
        assert message(slots) != message(0)


def test_wrong_messages_are_counted() -> None:
    first = PERIOD - 2
    received = [message(first + number) for number in range(10)]
    assert wrong_ones(received, first) == 0
    assert wrong_ones(received, first + PERIOD) == 0
    received[3] = received[3][:-1] + b"?"
    received[7], received[8] = received[8], received[7]
    assert wrong_ones(received, first) == 3


def test_wrong_rows_are_counted_as_messages_are() -> None:
    for first, count in ((0, BATCH), (2 * PERIOD + BATCH, BATCH), (PERIOD - 5, 20), (7, 3)):
        rows = b"".join(message(first + number) for number in range(count))
        assert wrong_rows(rows, first) == 0
        assert wrong_rows(rows, first + BATCH) == count
        assert wrong_rows(rows[:70] + b"?" + rows[71:], first) == 1


# --- every contender --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("name", ONE_WAY)
async def test_messages_arrive_one_way(name: str, batch: int) -> None:
    async with open_pair(name, TOGETHER, one_way=True) as pair:
        for _ in range(2):  # an end serves more than one round
            rate, wrong = await pair.one_way(2 * PERIOD + BATCH, batch)
            assert rate > 0
            assert wrong == 0


@pytest.mark.parametrize("name", list(ENDS))
async def test_messages_come_back(name: str) -> None:
    async with open_pair(name, TOGETHER, one_way=False) as pair:
        for _ in range(2):
            asked = await pair.round_trips(300)
            assert asked["wrong"] == 0
            assert 0 < asked["p50"] <= asked["p99"] <= asked["seconds"]


async def test_both_ends_are_where_the_placement_says() -> None:
    placement = Placement.apart_or_together()
    async with open_pair("pyzmq-ipc", placement, one_way=True) as pair:
        await pair.one_way(BATCH, 1)
        where = []
        for end in ends_of(os.getpid()):
            threads = threads_of(end)
            assert len(threads) > 1, "pyzmq has threads of its own"
            where.append({cpu for thread in threads for cpu in os.sched_getaffinity(thread)})
    assert sorted(map(sorted, where)) == sorted([[placement.asks], [placement.answers]])


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_an_end_that_dies_ends_the_round_and_nothing_is_left() -> None:
    async with open_pair("mp-pipe", TOGETHER, one_way=False) as pair:
        await pair.round_trips(10)
        os.kill(ends_of(os.getpid())[0], signal.SIGKILL)
        with pytest.raises(UnreachableError, match=r"mp-pipe: pvnet\.bench\.pair_end ended"):
            await pair.round_trips(10)
    assert ends_of(os.getpid()) == []


async def test_an_end_that_hangs_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair("eventfd", TOGETHER, one_way=False) as pair:
        await pair.round_trips(10)
        monkeypatch.setattr(pairs, "PATIENCE_S", 0.05)
        os.kill(ends_of(os.getpid())[0], signal.SIGSTOP)
        with pytest.raises(UnreachableError, match=r"said nothing for 0\.05 s"):
            await pair.round_trips(10)
    assert ends_of(os.getpid()) == [], "a stopped process is killed"


class Tampering:
    """An end that saw two wrong messages."""

    def receive(self, count: int, batch: int) -> Received:
        return Received(12.5, 2)


def test_an_end_reports_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert obey(Tampering(), Order("receive", 10, 1)) == {"end": 12.5, "wrong": 2}
    assert capsys.readouterr().out == "listening\n", "the sender may begin"


def test_what_an_end_is_told_survives_the_pipe() -> None:
    told = Told("pvnet", True, False, 1, 77, (3, 4), "ipc://x", {"spin": True})
    line = told.to_json()
    assert "\n" not in line
    assert Told.from_json(line) == told
    assert json.loads(line)["cpu"] == 1


class Scripted(Pair):
    """A pair without processes."""

    def __init__(self, name: str, turns: list[str], wrong: int = 0) -> None:
        self.name = name
        self._turns = turns
        self._wrong = wrong
        self._is_ready = True

    async def one_way(self, count: int, batch: int) -> tuple[float, int]:
        self._turns.append(f"{self.name}:{count}")
        return 100.0, self._wrong

    async def round_trips(self, count: int) -> dict[str, float]:
        return {"p50": 0.5, "p99": 0.9, "seconds": 4.0, "wrong": self._wrong}

    async def facts(self) -> dict[str, str]:
        return {"of": self.name}


async def test_pairs_take_turns_and_the_first_one_changes() -> None:
    turns: list[str] = []
    shown = await compare_pairs(
        [Scripted("pvnet", turns, wrong=2), Scripted("x", turns)], Plan(rounds=3, count=8, warm_up=4), one_way=True
    )
    assert turns == ["pvnet:4", "x:4", "pvnet:8", "x:8", "x:8", "pvnet:8", "pvnet:8", "x:8"]
    assert (shown["pvnet"].per_s.values, shown["pvnet"].wrong) == ([100.0] * 3, 6), "the warm-up is no part of it"
    assert shown["x"].facts == {"of": "x"}


async def test_there_and_back_gives_times_and_rates() -> None:
    shown = (await compare_pairs([Scripted("x", [])], Plan(rounds=2, count=8, warm_up=4), one_way=False))["x"]
    assert (shown.p50.values, shown.p99.values, shown.per_s.values) == ([0.5] * 2, [0.9] * 2, [2.0] * 2)


async def test_a_peer_that_loses_messages_ends_the_comparison() -> None:
    with pytest.raises(UnreachableError, match="x lost or mixed up 1 of 8 messages"):
        await compare_pairs([Scripted("x", [], wrong=1)], Plan(rounds=1, count=8, warm_up=8), one_way=True)


def test_a_frame_of_a_batch_is_the_messages_back_to_back() -> None:
    unpacked = struct.unpack(f"{MESSAGE_BYTES}s" * BATCH, b"".join(BATCHES[3]))
    assert list(unpacked) == BATCHES[3]
