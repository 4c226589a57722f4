"""The NovaLink service says in one line why it cannot start."""

import socket
import sys

import pytest

from pvnet.core.errors import ConfigError, UnavailableError
from pvnet_services import novalink
from pvnet_services.novalink_listen import HttpServer, Listener, Table


@pytest.mark.parametrize("module", ["aiohttp", "argon2", "cryptography"])
def test_without_the_extra_it_says_what_to_install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableError, match=r"pip install 'pvnet\[novalink\]'") as caught:
        novalink._needed()
    assert module in str(caught.value)
    assert caught.value.exit_code == 2


async def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: Address already in use; expected a free port"):
            Listener("127.0.0.1", port, HttpServer(None, None, Table(1)), None)


async def test_an_address_of_another_machine_is_named():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        Listener("192.0.2.1", 0, HttpServer(None, None, Table(1)), None)


async def test_a_name_that_is_none_is_named():
    with pytest.raises(ConfigError, match="no such host"):
        Listener("no such host", 0, HttpServer(None, None, Table(1)), None)


@pytest.mark.parametrize(("host", "url"), [("::", "https://[::1]:1"), ("0.0.0.0", "https://127.0.0.1:1")])
def test_the_url_of_a_service_that_listens_everywhere_can_be_used(host, url):
    assert novalink._url("https", host, 1) == url
