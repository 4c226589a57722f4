"""Event queues: one NEW_CLIENT, every later event once and in order, bounded in every direction."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pvnet.novalink.events import AT_ONCE, EventQueues


def kinds(events):
    return [event.event_type for event in events]


def test_the_first_poll_says_new_client_and_nothing_else_happens():
    queues = EventQueues(1000)
    queues.publish("ADD_URI", "/before")
    (first,) = queues.poll("user", "app", 0.0)
    assert first.event_type == "NEW_CLIENT"
    assert first.event_id > 1000
    assert queues.poll("user", "app", 1.0) == []
    queues.publish("MODIFY_URI", "/x", "Other")
    (event,) = queues.poll("user", "app", 2.0)
    assert (event.event_type, event.data, event.detail) == ("MODIFY_URI", "/x", "Other")
    assert event.event_id > first.event_id


def test_every_client_has_a_queue_of_its_own():
    queues = EventQueues(0)
    for user, app in (("a", "1"), ("a", "2"), ("b", "1")):
        assert kinds(queues.poll(user, app, 0.0)) == ["NEW_CLIENT"]
    queues.publish("DELETE_URI", "/x")
    for user, app in (("a", "1"), ("a", "2"), ("b", "1")):
        assert kinds(queues.poll(user, app, 1.0)) == ["DELETE_URI"]


def test_a_queue_that_overflows_says_missing_events_and_goes_on():
    queues = EventQueues(0, most_events=10)
    queues.poll("u", "a", 0.0)
    for number in range(11):
        queues.publish("MODIFY_URI", f"/{number}")
    events = queues.poll("u", "a", 1.0)
    assert kinds(events) == ["MISSING_EVENTS", "MODIFY_URI"]
    assert events[-1].data == "/10"
    assert events[0].event_id < events[1].event_id


def test_cache_cleared_replaces_what_waits():
    queues = EventQueues(0)
    queues.poll("u", "a", 0.0)
    queues.publish("MODIFY_URI", "/old")
    queues.publish("CACHE_CLEARED")
    queues.publish("MODIFY_URI", "/new")
    assert kinds(queues.poll("u", "a", 1.0)) == ["CACHE_CLEARED", "MODIFY_URI"]


def test_one_answer_has_so_many_events_at_most_and_the_next_the_rest():
    queues = EventQueues(0)
    queues.poll("u", "a", 0.0)
    for number in range(AT_ONCE + 3):
        queues.publish("ADD_URI", f"/{number}")
    assert len(queues.poll("u", "a", 1.0)) == AT_ONCE
    assert [e.data for e in queues.poll("u", "a", 1.0)] == [f"/{AT_ONCE + n}" for n in range(3)]


def test_queues_that_nobody_polls_go_and_are_new_afterwards():
    queues = EventQueues(0, expiry_s=10.0)
    queues.poll("u", "old", 0.0)
    queues.poll("u", "kept", 5.0)
    queues.expire(12.0)
    assert len(queues) == 1
    assert kinds(queues.poll("u", "old", 12.0)) == ["NEW_CLIENT"]


def test_too_many_queues_cost_the_one_polled_longest_ago():
    queues = EventQueues(0, most_queues=2)
    queues.poll("u", "1", 0.0)
    queues.poll("u", "2", 1.0)
    assert queues.poll("u", "1", 2.0) == []
    queues.poll("u", "3", 3.0)
    assert len(queues) == 2
    assert queues.poll("u", "1", 4.0) == []
    assert kinds(queues.poll("u", "2", 4.0)) == ["NEW_CLIENT"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["poll", "publish"]), st.integers(0, 3)), max_size=80))
def test_whatever_happens_each_event_comes_once_in_order_or_is_said_to_be_missing(steps):
    queues = EventQueues(0, most_events=5, most_queues=3)
    published, seen, last = 0, {}, {}
    for kind, client in steps:
        if kind == "publish":
            published += 1
            queues.publish("MODIFY_URI", str(published))
        else:
            events = queues.poll("u", str(client), 0.0)
            if kinds(events) == ["NEW_CLIENT"]:
                seen[client] = published
            for event in events:
                if event.event_type == "MISSING_EVENTS":
                    seen[client] = None
                elif event.event_type == "MODIFY_URI":
                    expected = seen[client]
                    assert expected is None or int(event.data) == expected + 1
                    seen[client] = int(event.data)
            numbers = [event.event_id for event in events]
            assert numbers == sorted(set(numbers))
            assert not numbers or numbers[0] > last.get(client, -1)
            last[client] = numbers[-1] if numbers else last.get(client, -1)
        assert queues.kept <= 3 * 6
        assert len(queues) <= 3
