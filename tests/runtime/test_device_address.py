"""Addresses of device sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvnet.core.errors import ConfigError
from pvnet.runtime.device_address import DeviceAddress
from pvnet.runtime.topology_file import TopologyError, load_topology


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:/run/a?b=c", "unix:/run/a?b=c"),
        ("unix:vmc.sock", "unix:vmc.sock"),
        ("tcp:127.8.0.1:0", "tcp:127.8.0.1:0"),
        ("tcp:localhost:70", "tcp:127.0.0.1:70"),
        ("tcp:[::1]:70", "tcp:[::1]:70"),
        ("tcp:0.0.0.0:70?key=k&cert=c&ca=a%20b", "tcp:0.0.0.0:70?ca=a%20b&cert=c&key=k"),
        ("tcp:host.example:70?ca=a&cert=c&key=k", "tcp:host.example:70?ca=a&cert=c&key=k"),
    ],
)
def test_what_is_an_address(text: str, shown: str) -> None:
    address = DeviceAddress.parse(text)
    assert str(address) == shown
    assert DeviceAddress.parse(shown) == address
    assert str(address.absolute(Path("/"))).replace("/", "") == shown.replace("/", "").replace("%20", "%20")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected unix:PATH"),
        ("unix:", "expected unix:PATH"),
        ("unix:a\0b", "expected unix:PATH"),
        ("tcp:", "expected unix:PATH"),
        ("tcp:127.0.0.1:65536", "expected unix:PATH"),
        ("tcp:::1:70", "expected unix:PATH"),
        ("tcp:127.0.0.1:70?ca", "expected unix:PATH"),
        ("tcp:127.0.0.1:70?ca=a&cert=b", "expected all of"),
        ("tcp:127.0.0.1:70?ca=a&cert=b&key=", "expected all of"),
        ("tcp:127.0.0.1:70?ca=a&ca=b&key=c", "expected all of"),
        ("tcp:127.0.0.1:70?ca=a&cert=b&key=c&x=d", "expected unix:PATH"),
        ("tcp:127.0.0.1.example:70", "certificates beyond loopback"),
        ("tcp:0.0.0.0:70", "certificates beyond loopback"),
        ("tcp:[::]:70", "certificates beyond loopback"),
        ("vfio-user:/x", "expected unix:PATH"),
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        DeviceAddress.parse(text)


def test_a_topology_with_one_that_is_none_is_refused_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(
        '[[partition]]\nname = "mp"\nmanagement = true\nvmc.listen = ["unix:a", "tcp:0.0.0.0:70"]\n[manager]\n'
    )
    with pytest.raises(TopologyError, match="certificates beyond loopback"):
        load_topology(file)
    file.write_text(file.read_text().replace("0.0.0.0", "127.0.0.1"))
    vmc = load_topology(file).partitions[0].vmc
    assert vmc is not None
    assert vmc.listen == [f"unix:{tmp_path / 'a'}", "tcp:127.0.0.1:70"]
