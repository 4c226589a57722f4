"""Broker addresses: what is read, what is refused, and that a password never shows."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import ConfigError
from pvnet.transport.uri import BrokerUrl


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mqtt://localhost", BrokerUrl("localhost", 1883)),
        ("mqtt://127.0.0.1:2883/", BrokerUrl("127.0.0.1", 2883)),
        ("mqtts://broker.example", BrokerUrl("broker.example", 8883, tls=True)),
        ("mqtt://[::1]:1884", BrokerUrl("::1", 1884)),
        ("mqtt://ann:p%40ss%3A@h", BrokerUrl("h", 1883, username="ann", password="p@ss:")),
    ],
)
def test_reads(text: str, url: BrokerUrl) -> None:
    assert BrokerUrl.parse(text) == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("localhost:1883", "expected mqtt://"),
        ("http://h", "expected mqtt://"),
        ("mqtt://", "expected mqtt://"),
        ("mqtt://h:0", "port 0"),
        ("mqtt://h:99999", "Port out of range"),
        ("mqtt://h:x", "expected mqtt://"),
        ("mqtt://h/topic", "nothing may follow"),
        ("mqtt://h?cafile=x", "unknown parameter 'cafile', expected ca_file"),
        ("mqtt://h?ca_file=/etc/hosts", "ca_file needs mqtts://"),
        ("mqtts://h?ca_file=/no/such", "/no/such: no such file"),
        ("mqtt://:secret@h", "a password needs a user name"),
    ],
)
def test_refuses_and_says_what_was_expected(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BrokerUrl.parse(text)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["mqtt://ann:secret@h:bad", "mqtt://ann:secret@h/x", "http://ann:secret@h"])
def test_errors_hide_the_password(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BrokerUrl.parse(text)
    assert "secret" not in str(caught.value)
    assert "ann@h" in str(caught.value)


def test_separate_settings_add_but_do_not_contradict(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    url = BrokerUrl.parse("mqtts://h", ca_file=str(ca), username="u", password="p")
    assert (url.ca_file, url.username, url.password) == (str(ca), "u", "p")
    assert BrokerUrl.parse("mqtt://u@h", username="u").username == "u"
    with pytest.raises(ConfigError, match="username"):
        BrokerUrl.parse("mqtt://v@h", username="u")
    with pytest.raises(ConfigError, match="needs a user name"):
        BrokerUrl.parse("mqtt://h", password="p")


@given(
    host=st.sampled_from(["h", "127.0.0.1", "::1"]),
    port=st.integers(1, 65535),
    tls=st.booleans(),
    user=st.none() | st.text(min_size=1, max_size=8),
    password=st.none() | st.text(max_size=8),
)
def test_text_round_trips_and_redacted_has_no_password(
    host: str, port: int, tls: bool, user: str | None, password: str | None
) -> None:
    secret = "S3CRET" + password if password is not None and user is not None else None
    url = BrokerUrl(host, port, tls, username=user, password=secret)
    assert BrokerUrl.parse(url.text()) == url
    assert "S3CRET" not in url.redacted() + repr(url)
