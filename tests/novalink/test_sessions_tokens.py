"""Log-ons: found by their token only, for as long as they are used, never more than allowed."""

import pytest

from pvnet.novalink.sessions import Failures, LogOns


def test_a_token_is_good_until_it_was_idle_for_too_long():
    log_ons = LogOns(most=10, idle_s=100.0)
    assert log_ons.add("secret", "me", 0.0) == []
    assert log_ons.find("secret", 99.0).user == "me"
    assert log_ons.find("secret", 198.0) is not None
    assert log_ons.find("secret", 298.0) is None
    (ended,) = log_ons.expire(298.0)
    assert ended.user == "me"
    assert len(log_ons) == 0


@pytest.mark.parametrize("token", ["", "Secret", "secret ", "x" * 5000, "\udcff", "\u20ac"])
def test_no_other_token_finds_it(token):
    log_ons = LogOns(most=10, idle_s=100.0)
    log_ons.add("secret", "me", 0.0)
    assert log_ons.find(token, 1.0) is None


def test_one_too_many_ends_the_one_idle_for_longest():
    log_ons = LogOns(most=2, idle_s=100.0)
    log_ons.add("a", "A", 0.0, file="/a")
    log_ons.add("b", "B", 1.0)
    log_ons.find("a", 2.0)
    (ended,) = log_ons.add("c", "C", 3.0)
    assert ended.user == "B"
    assert log_ons.find("a", 4.0).file == "/a"


def test_logging_off_ends_it_once():
    log_ons = LogOns(most=2, idle_s=100.0)
    log_ons.add("a", "A", 0.0)
    found = log_ons.find("a", 0.0)
    assert log_ons.has(found)
    assert log_ons.remove(found)
    assert not log_ons.remove(found)
    assert not log_ons.has(found)
    assert log_ons.find("a", 0.0) is None


def test_the_secret_itself_is_not_kept():
    log_ons = LogOns(most=2, idle_s=100.0)
    log_ons.add("a-very-secret-token", "A", 0.0)
    assert "a-very-secret-token" not in repr(log_ons.find("a-very-secret-token", 0.0))


def test_failures_take_longer_and_longer_until_one_succeeds_or_time_passes():
    failures = Failures()
    delays = [failures.failed("10.0.0.1", 0.0) for _ in range(20)]
    assert delays == sorted(delays)
    assert 0 < delays[0] < delays[5] <= delays[-1] <= 5
    assert failures.failed("10.0.0.2", 0.0) == delays[0]
    failures.succeeded("10.0.0.1")
    assert failures.failed("10.0.0.1", 0.0) == delays[0]
    failures.failed("10.0.0.1", 1.0)
    assert failures.failed("10.0.0.1", 1000.0) == delays[0]


def test_failures_from_everywhere_are_not_kept_for_ever():
    failures = Failures()
    for number in range(5000):
        failures.failed(str(number), 0.0)
    assert len(failures._failures) <= 1024
