import pytest

from pvnet.core.errors import LocalError
from pvnet.papr.retry import BusyRetry, RetryLimits, wants_retry


def test_long_busy_waits_as_the_code_says():
    retry = BusyRetry(0.0)
    assert [retry.next(rc, 0.0) for rc in range(9900, 9906)] == [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]


def test_busy_starts_at_one_millisecond_and_doubles_up_to_64():
    retry = BusyRetry(0.0)
    waits = [retry.next(1, 0.0) for _ in range(9)]
    assert waits == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.064, 0.064]


def test_in_progress_waits_100_ms():
    assert BusyRetry(0.0).next(14, 0.0) == 0.1


def test_number_of_tries_counts_the_first_call():
    retry = BusyRetry(0.0, max_tries=3)
    assert retry.next(1, 0.0) is not None
    assert retry.next(1, 0.0) is not None
    assert retry.tries == 3
    assert retry.next(1, 0.0) is None
    assert retry.tries == 3


def test_one_try_never_repeats():
    assert BusyRetry(0.0, max_tries=1).next(9905, 0.0) is None


def test_hint_is_shortened_to_the_deadline_and_then_ends():
    retry = BusyRetry(100.0, deadline=102.0)
    assert retry.next(9903, 100.0) == 1.0
    assert retry.next(9904, 101.0) == 1.0
    assert retry.next(9904, 102.0) is None


def test_limits_start_when_made():
    retry = BusyRetry.within(RetryLimits(max_tries=None, seconds=5.0), 10.0)
    assert retry.next(9905, 14.0) == 1.0
    assert retry.next(1, 15.0) is None
    endless = BusyRetry.within(RetryLimits(max_tries=None, seconds=None), 0.0)
    assert all(endless.next(9905, float(hour)) == 100.0 for hour in range(2000))


@pytest.mark.parametrize("rc", [0, 2, -4, 18, 9906])
def test_other_codes_are_a_mistake_of_the_caller(rc):
    assert not wants_retry(rc)
    with pytest.raises(LocalError, match=str(rc)):
        BusyRetry(0.0).next(rc, 0.0)


def test_zero_tries_is_a_mistake():
    with pytest.raises(LocalError, match="at least 1"):
        BusyRetry(0.0, max_tries=0)
