"""The signal, branch by branch: which loads, stores and fences, in which order (vbus 5.3), and what it answers."""

from __future__ import annotations

import pytest
from ring.support import no_fence

from pvnet.core.errors import LocalError
from pvnet.ring.errors import EINVAL, RingError
from pvnet.ring.event_signal import CLOSED, EVENT, FLAGS, NEED_WAKEUP, NORTH_LINE, PROD, SOUTH_LINE, EventSignal
from pvnet.ring.layout import NORTH, SOUTH
from pvnet.ring.shm_signal import ShmSignal

NAMES = {8: "enabled", 9: "pending", 10: "dirty"}


class Tape:
    """Real memory that writes down what is done to it, in the words of the specification."""

    def __init__(self, names, size):
        self.bytes = [0] * size
        self.names = names
        self.numbers = {name: number for number, name in names.items()}
        self.ops = []

    def __getitem__(self, index):
        self.ops.append(self.names[index])
        return self.bytes[index]

    def __setitem__(self, index, value):
        self.ops.append(f"{self.names[index]} := {value}")
        self.bytes[index] = value

    def fence(self):
        self.ops.append("F")

    def set(self, **values):
        for name, value in values.items():
            self.bytes[self.numbers[name]] = value

    def read(self):
        text = ", ".join(self.ops)
        self.ops.clear()
        return text


@pytest.fixture
def tape():
    return Tape(NAMES, 16)


def receiver(tape, *, enabled):
    signal = ShmSignal(tape, NORTH, tape.fence, ordered=True)
    if enabled:
        tape.set(enabled=1)
        signal._enabled = True
    return signal


@pytest.mark.parametrize(
    ("enabled", "pending", "rings", "ops"),
    [
        (0, 0, False, "dirty := 1, F, enabled"),
        (0, 1, False, "dirty := 1, F, enabled"),
        (1, 1, False, "dirty := 1, F, enabled, pending"),
        (1, 0, True, "dirty := 1, F, enabled, pending, pending := 1"),
    ],
)
def test_inject_fences_between_dirty_and_looking(tape, enabled, pending, rings, ops):
    tape.set(enabled=enabled, pending=pending)
    signal = ShmSignal(tape, SOUTH, tape.fence, ordered=True)
    assert signal.inject() == rings
    assert tape.read() == ops
    counters = signal.counters
    assert (counters.injects, counters.doorbells, counters.suppressed) == (1, int(rings), int(not rings))


def test_inject_fences_before_dirty_too_where_stores_are_not_in_order(tape):
    ShmSignal(tape, SOUTH, tape.fence, ordered=False).inject()
    assert tape.read() == "F, dirty := 1, F, enabled"


@pytest.mark.parametrize(
    ("dirty", "pending", "due", "ops"),
    [
        (0, 0, False, "enabled := 1, F, dirty, pending"),
        (0, 1, True, "enabled := 1, F, dirty, pending"),
        (1, 0, True, "enabled := 1, F, dirty"),
    ],
)
def test_enable_fences_between_enabled_and_looking(tape, dirty, pending, due, ops):
    tape.set(dirty=dirty, pending=pending)
    signal = receiver(tape, enabled=False)
    assert signal.enable() == due
    assert signal.enabled
    assert tape.read() == ops


def test_disable_is_one_store(tape):
    signal = receiver(tape, enabled=True)
    signal.disable()
    assert tape.read() == "enabled := 0"
    assert not signal.enabled


def test_wakeup_fences_after_clearing_dirty_and_after_clearing_pending(tape):
    tape.set(dirty=1, pending=1)
    signal = receiver(tape, enabled=True)
    assert not signal.wakeup(lambda: tape.ops.append("notifier"))
    assert tape.read() == "dirty, dirty := 0, F, notifier, dirty, pending := 0, F, dirty, pending"
    assert signal.counters.wakeups == 1


def test_wakeup_looks_again_when_something_comes_while_the_notifier_runs(tape):
    tape.set(dirty=1, pending=1)
    signal = receiver(tape, enabled=True)
    runs = []

    def notifier():
        runs.append(tape.read())
        if len(runs) == 1:
            tape.set(dirty=1)

    assert not signal.wakeup(notifier)
    assert runs == ["dirty, dirty := 0, F", "dirty, dirty := 0, F"]
    assert tape.read() == "dirty, pending := 0, F, dirty, pending"


def test_wakeup_looks_again_when_something_comes_while_pending_is_cleared(tape):
    tape.set(dirty=1, pending=1)
    signal = receiver(tape, enabled=True)
    fence, fences = tape.fence, []

    def late():
        fence()
        fences.append(None)
        if len(fences) == 2:
            tape.set(dirty=1)

    signal._fence = late
    runs = []
    assert not signal.wakeup(lambda: runs.append(None))
    assert len(runs) == 2
    assert len(fences) == 4


def test_wakeup_with_a_notifier_that_disables_clears_pending_and_stops(tape):
    tape.set(dirty=1, pending=1)
    signal = receiver(tape, enabled=True)

    def poll_from_now_on():
        signal.disable()
        tape.set(dirty=1)

    assert not signal.wakeup(poll_from_now_on)
    assert tape.read() == "dirty, dirty := 0, F, enabled := 0, pending := 0, F"
    assert signal.enable()


@pytest.mark.parametrize("passes", [1, 4])
def test_wakeup_stops_at_the_pass_limit_and_leaves_pending(tape, passes):
    tape.set(dirty=1, pending=1)
    signal = receiver(tape, enabled=True)
    runs = []

    def busy():
        runs.append(None)
        tape.set(dirty=1)

    assert signal.wakeup(busy, passes)
    assert len(runs) == passes
    assert tape.bytes[9] == 1
    assert not ShmSignal(tape, SOUTH, no_fence).inject()


def test_a_wakeup_for_nothing_and_one_while_masked_are_spurious(tape):
    signal = receiver(tape, enabled=True)
    assert not signal.wakeup(pytest.fail)
    tape.set(dirty=1, pending=1)
    signal.disable()
    assert not signal.wakeup(pytest.fail)
    assert signal.counters.spurious == 2
    assert tape.bytes[9] == 1


def test_enabling_inside_of_a_wakeup_schedules_nothing_since_the_wakeup_looks_again(tape):
    tape.set(dirty=1, pending=1)
    signal = receiver(tape, enabled=True)
    answers = []
    assert not signal.wakeup(lambda: answers.append(signal.enable()))
    assert answers == [False]


def test_wakeup_inside_of_a_wakeup_is_our_mistake(tape):
    tape.set(dirty=1)
    signal = receiver(tape, enabled=True)
    with pytest.raises(LocalError):
        signal.wakeup(lambda: signal.wakeup(pytest.fail))
    tape.set(dirty=1)
    signal.wakeup(lambda: None)  # and after it all is well
    assert signal.counters.wakeups == 2


def test_recheck_finds_what_nobody_rang_for_but_only_while_enabled(tape):
    signal = receiver(tape, enabled=False)
    tape.set(dirty=1)
    assert not signal.recheck()
    signal.enable()
    assert signal.recheck()
    signal.wakeup(lambda: None)
    assert not signal.recheck()


def test_marking_makes_the_next_look_due(tape):
    signal = receiver(tape, enabled=True)
    signal.mark()
    assert tape.read() == "dirty := 1"
    runs = []
    signal.wakeup(lambda: runs.append(None))
    assert len(runs) == 1


@pytest.mark.parametrize("offset", [-8, 4, 24, 1 << 40])
def test_a_signal_outside_or_not_aligned_is_refused(offset):
    view = memoryview(bytearray(32))
    with pytest.raises(LocalError):
        ShmSignal.create(view, offset, no_fence)
    with pytest.raises(RingError) as caught:
        ShmSignal.attach(view, offset, SOUTH, no_fence)
    assert caught.value.errno == EINVAL


# -- by event index -------------------------------------------------------------------------------------------------

NORTH_WORD, SOUTH_WORD = NORTH_LINE // 4, SOUTH_LINE // 4
WORDS = {
    SOUTH_WORD + PROD: "prod",
    SOUTH_WORD + FLAGS: "sender_flags",
    NORTH_WORD + EVENT: "event",
    NORTH_WORD + FLAGS: "flags",
}


@pytest.fixture
def words():
    return Tape(WORDS, SOUTH_WORD + 16)


@pytest.mark.parametrize(
    ("told", "prod", "event", "flags", "rings"),
    [
        (0, 1, 0, NEED_WAKEUP, True),
        (0, 1, 0, 0, False),
        (0, 3, 2, NEED_WAKEUP, True),
        (0, 3, 3, NEED_WAKEUP, False),
        (3, 4, 2, NEED_WAKEUP, False),
        (3, 3, 3, NEED_WAKEUP, False),
        (0xFFFFFFFF, 1, 0, NEED_WAKEUP, True),
        (0xFFFFFFFE, 0, 0xFFFFFFFF, NEED_WAKEUP, True),
        (0xFFFFFFFE, 0, 0xFFFFFFFD, NEED_WAKEUP, False),
    ],
)
def test_inject_rings_only_when_prod_passes_the_event(words, told, prod, event, flags, rings):
    words.set(prod=prod, event=event, flags=flags)
    signal = EventSignal(words, SOUTH, words.fence)
    signal._told = told
    assert signal.inject() == rings
    assert words.read() == ("prod, F, flags, event" if flags else "prod, F, flags")
    assert not signal.inject()
    assert signal.counters.suppressed == 2 - rings


def test_enable_and_going_to_sleep_again_fence_between_event_and_prod(words):
    signal = EventSignal(words, NORTH, words.fence)
    assert not signal.enable()
    assert words.read() == "event := 0, flags := 1, F, prod"
    words.set(prod=5)
    assert signal.recheck()
    words.read()
    assert not signal.wakeup(lambda: words.ops.append("notifier"))
    assert words.read() == "prod, notifier, prod, event := 5, flags := 1, F, prod"
    signal.disable()
    assert words.read() == "flags := 0"
    assert not signal.recheck()
    assert not signal.wakeup(pytest.fail)
    assert (signal.counters.wakeups, signal.counters.spurious) == (1, 1)


def test_event_wakeup_looks_again_when_something_comes_while_it_goes_to_sleep(words):
    signal = EventSignal(words, NORTH, words.fence)
    signal.enable()
    words.set(prod=1)
    fences, runs = [], []

    def late():
        fences.append(None)
        if len(fences) == 1:
            words.set(prod=2)

    signal._fence = late
    assert not signal.wakeup(lambda: runs.append(words.bytes[SOUTH_WORD]))
    assert runs == [1, 2]


def test_event_wakeup_stops_at_the_pass_limit_and_nobody_rings(words):
    signal = EventSignal(words, NORTH, words.fence)
    sender = EventSignal(words, SOUTH, words.fence)
    signal.enable()
    rings = []

    def busy():
        words.bytes[SOUTH_WORD] += 1
        rings.append(sender.inject())

    words.set(prod=1)
    assert sender.inject()
    assert signal.wakeup(busy, 3)
    assert rings == [False] * 3
    assert not signal.wakeup(lambda: None)


def test_event_wakeup_inside_of_a_wakeup_is_our_mistake(words):
    signal = EventSignal(words, NORTH, words.fence)
    signal.enable()
    words.set(prod=1)
    with pytest.raises(LocalError):
        signal.wakeup(lambda: signal.wakeup(pytest.fail))


def test_enabling_by_event_index_inside_of_a_wakeup_schedules_nothing(words):
    signal = EventSignal(words, NORTH, words.fence)
    signal.enable()
    words.set(prod=1)
    answers = []

    def notifier():
        signal.disable()
        words.set(prod=2)
        if not answers:
            answers.append(signal.enable())

    signal.wakeup(notifier)
    assert answers == [False]
    assert not signal.enabled
    assert signal.enable() is False


def test_a_tampered_line_of_our_own_is_written_again_by_recheck(words):
    signal = EventSignal(words, NORTH, words.fence)
    signal.enable()
    words.set(flags=0)
    assert not signal.recheck()
    assert words.bytes[NORTH_WORD + FLAGS] == NEED_WAKEUP
    words.set(event=9, prod=1)
    assert signal.recheck()
    assert words.bytes[NORTH_WORD + EVENT] == 0


def test_closing_is_seen_by_the_peer_and_survives_arming(words):
    signal, peer = EventSignal(words, NORTH, words.fence), EventSignal(words, SOUTH, words.fence)
    words.names |= {NORTH_WORD + PROD: "own_prod", SOUTH_WORD + EVENT: "sender_event"}
    assert not peer.peer_closed
    signal.close()
    assert peer.peer_closed
    signal.enable()
    assert words.bytes[NORTH_WORD + FLAGS] == NEED_WAKEUP | CLOSED
    assert peer.peer_closed
