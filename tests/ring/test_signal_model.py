"""No wakeup is lost with the fences, and each of them is needed: the real code on every interleaving (vbus 5.4)."""

from __future__ import annotations

from functools import partial

import pytest
from ring.store_buffers import explore

from pvnet.ring.batch import PacketProducer
from pvnet.ring.event_signal import EVENT, FLAGS, NEED_WAKEUP, NORTH_LINE, PROD, SOUTH_LINE, EventSignal
from pvnet.ring.layout import NORTH, SOUTH
from pvnet.ring.shm_signal import ShmSignal

ITEMS = 3

# -- the signal of 2009: south sends to north ----------------------------------------------------------------------

ENABLED, PENDING, DIRTY = 8, 9, 10
FIRST_ITEM = 16  # one byte per item, behind the signal

SENDER_DIRTY = ("sender", (DIRTY, 1))
ENABLE = ("receiver", (ENABLED, 1))
LOOK = ("receiver", (DIRTY, 0))
LOOKED = ("receiver", (PENDING, 0))
FENCES = {SENDER_DIRTY, ENABLE, LOOK, LOOKED}


def send(sent, script):
    if sent == ITEMS:
        return None
    script[FIRST_ITEM + sent] = 1
    if ShmSignal(script, SOUTH, script.fence, ordered=True).inject():
        script.ring()
    return sent + 1


def receive(summary, script, passes):
    state, got = summary
    signal = ShmSignal(script, NORTH, script.fence, ordered=True)
    if state == "start":
        return ("due" if signal.enable() else "asleep", got)
    signal._enabled = True
    if state == "asleep":
        script.wait()

    def take_what_is_there():
        nonlocal got
        while got < ITEMS and script[FIRST_ITEM + got]:
            got += 1

    return ("due" if signal.wakeup(take_what_is_there, passes) else "asleep", got)


def explore_2009(start, removed=None, passes=4):
    memory = bytearray(FIRST_ITEM + ITEMS)
    memory[ENABLED] = start == "asleep"
    return explore(
        (0, send),
        ((start, 0), partial(receive, passes=passes)),
        tuple(memory),
        lambda thread, _, store: (thread, store) == removed,
    )


@pytest.mark.parametrize("start", ["asleep", "start"])
@pytest.mark.parametrize("passes", [1, 4])
def test_no_wakeup_is_lost_with_all_fences(start, passes):
    outcome = explore_2009(start, passes=passes)
    assert outcome.ends == {("asleep", ITEMS)}
    assert outcome.states > 1000
    met = {(thread, store) for thread, _, store in outcome.fences}
    assert met == (FENCES if start == "start" else FENCES - {ENABLE})


@pytest.mark.parametrize("removed", sorted(FENCES))
def test_without_any_one_of_the_four_fences_a_wakeup_can_be_lost(removed):
    ends = explore_2009("start", removed).ends
    assert any(got < ITEMS for _, got in ends)
    assert ("asleep", ITEMS) in ends


@pytest.mark.parametrize("removed", sorted(FENCES - {ENABLE}))
def test_an_armed_receiver_needs_the_three_that_it_meets(removed):
    assert any(got < ITEMS for _, got in explore_2009("asleep", removed).ends)


# -- the event index of 2026 ----------------------------------------------------------------------------------------

NORTH_WORD, SOUTH_WORD = NORTH_LINE // 4, SOUTH_LINE // 4
SENDER_PROD = "after prod"
ARM_AT_ENABLE = "arming when enabled"
ARM_AGAIN = "arming again"
FENCES_2026 = {SENDER_PROD, ARM_AT_ENABLE, ARM_AGAIN}


def fence_2026(thread, summary, _store):
    if thread == "sender":
        return SENDER_PROD
    return ARM_AT_ENABLE if summary[0] == "start" else ARM_AGAIN


def send_2026(sent, script):
    if sent == ITEMS:
        return None
    script[SOUTH_WORD + PROD] = sent + 1
    signal = EventSignal(script, SOUTH, script.fence)
    signal._told = sent
    if signal.inject():
        script.ring()
    return sent + 1


def receive_2026(summary, script, passes):
    state, got, noticed, event = summary
    signal = EventSignal(script, NORTH, script.fence)
    signal._noticed, signal._event = noticed, event

    def after(due):
        return ("due" if due else "asleep", got, signal._noticed, signal._event)

    if state == "start":
        return after(signal.enable())
    signal._enabled, signal._flags = True, NEED_WAKEUP
    if state == "asleep":
        script.wait()

    def take_what_is_there():
        nonlocal got
        got = script[SOUTH_WORD + PROD]

    return after(signal.wakeup(take_what_is_there, passes))


def explore_2026(start, removed=None, passes=4):
    memory = [0] * (SOUTH_WORD + 4)
    memory[NORTH_WORD + FLAGS] = NEED_WAKEUP if start == "asleep" else 0
    assert memory[NORTH_WORD + EVENT] == 0
    return explore(
        (0, send_2026),
        ((start, 0, 0, 0), partial(receive_2026, passes=passes)),
        tuple(memory),
        lambda *fence: fence_2026(*fence) == removed,
    )


@pytest.mark.parametrize("start", ["asleep", "start"])
@pytest.mark.parametrize("passes", [1, 4])
def test_no_wakeup_by_event_index_is_lost_with_all_fences(start, passes):
    outcome = explore_2026(start, passes=passes)
    assert {(end[0], end[1]) for end in outcome.ends} == {("asleep", ITEMS)}
    assert outcome.states > 200


@pytest.mark.parametrize("removed", sorted(FENCES_2026))
def test_without_any_fence_of_the_event_index_a_wakeup_can_be_lost(removed):
    assert any(end[1] < ITEMS for end in explore_2026("start", removed).ends)


def test_an_armed_event_index_needs_the_two_that_it_meets():
    for removed in (SENDER_PROD, ARM_AGAIN):
        assert any(end[1] < ITEMS for end in explore_2026("asleep", removed).ends)


# -- the packet ring's shorter way: one fence for publishing and ringing, and enabled ever after ----------------------


def hand_over(summary, script):
    sent, told = summary
    if sent == ITEMS:
        return None
    producer = PacketProducer.__new__(PacketProducer)
    producer._u32, producer._fence, producer._ordered = script, script.fence, True
    producer._given, producer._prod_word, producer._peer_flags = sent, NORTH_WORD + PROD, SOUTH_WORD + FLAGS
    producer.events, producer._doorbell = EventSignal(script, NORTH, script.fence), script.ring
    producer.events._told = told
    producer._hand_over(1)
    return sent + 1, producer.events._told


def take_or_sleep(summary, script):
    state, got, flags = summary
    if state == "asleep":
        script.wait()
    got = script[NORTH_WORD + PROD]
    events = EventSignal(script, SOUTH, script.fence)
    events._flags = flags
    return ("asleep" if events.sleep_after(got) else "awake", got, events._flags)


def explore_packets(removed=None):
    return explore(
        ((0, 0), hand_over),
        (("awake", 0, 0), take_or_sleep),
        tuple([0] * (SOUTH_WORD + 4)),
        lambda thread, *_: thread == removed,
    )


def test_no_wakeup_of_a_packet_ring_is_lost_with_both_fences():
    outcome = explore_packets()
    assert {(state, got) for state, got, _ in outcome.ends} == {("asleep", ITEMS)}
    assert outcome.states > 200


@pytest.mark.parametrize("removed", ["sender", "receiver"])
def test_without_either_fence_a_wakeup_of_a_packet_ring_can_be_lost(removed):
    assert any(got < ITEMS for _, got, _ in explore_packets(removed).ends)
