"""A client machine: its requests, against a server of ours."""

from __future__ import annotations

from struct import pack

import pytest
from user_client import Client
from user_fakes import Event
from user_rig import Pair

from pvnet.core.errors import LocalError
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo
from pvnet.mdev.vfio_user_client import RegionReply
from pvnet.mdev.vfio_user_exchange import ClientLimits
from pvnet.mdev.vfio_user_server import ServerLimits
from pvnet.mdev.vfio_user_version import Capabilities
from pvnet.papr.errno import EEXIST, EFAULT, EINVAL, ENODEV, ENOENT

# --- against our server -----------------------------------------------------------------------------------------------


def test_what_the_device_is() -> None:
    pair = Pair()
    assert pair.do(pair.client.device_info) == DeviceInfo(3, 9, 5)
    assert pair.do(pair.client.region_info, 0) == RegionReply(RegionInfo(8, 3))
    bar1 = pair.do(pair.client.region_info, 1)
    assert isinstance(bar1, RegionReply)
    assert bar1.info == RegionInfo(0x3000, 7, 0, ((0, 0x1000), (0x2000, 0x1000)))
    assert bar1.descriptor is not None
    assert pair.descriptors.open[bar1.descriptor] is pair.device.memory.buffer
    assert pair.open_descriptors == 1, "it is the caller's"
    assert pair.do(pair.client.irq_info, 0) == IrqInfo(1, 1)
    assert pair.errno(pair.client.region_info, 9) == EINVAL
    assert pair.errno(pair.client.irq_info, 5) == EINVAL


def test_irqs() -> None:
    pair = Pair()
    event = Event()
    descriptor = pair.descriptors.make(event)
    assert pair.errno(pair.client.set_irqs, 0, 0, 1, 4, 0x20, b"", (descriptor,)) == 0
    pair.descriptors.close(descriptor)
    assert pair.errno(pair.client.set_irqs, 0, 0, 1, 2, 0x20, b"\1", ()) == 0
    assert event.count == 1
    assert pair.errno(pair.client.set_irqs, 0, 0, 0, 1, 0x20, b"", ()) == 0
    assert pair.open_descriptors == 0
    assert pair.errno(pair.client.set_irqs, 0, 0, 9, 4, 0x20, b"", range(9)) == EINVAL


def test_registers() -> None:
    pair = Pair()
    assert pair.do(pair.client.region_read, 7, 0, 4) == bytes.fromhex("4f49c80d")
    assert pair.do(pair.client.region_write, 7, 0x40, b"abcd") is None
    assert pair.do(pair.client.region_read, 7, 0x40, 4) == b"abcd"
    assert pair.do(pair.client.region_read, 7, 0x40, 0) == b""
    assert pair.do(pair.client.region_write, 7, 0x40, b"") is None
    assert pair.errno(pair.client.region_read, 7, 254, 4) == EINVAL
    assert pair.errno(pair.client.region_write, 7, 254, b"abcd") == EINVAL
    assert pair.do(pair.client.reset) is None
    assert pair.device.resets == 1
    pair.client.region_write(7, 0x40, b"wxyz")
    pair.pump()
    assert pair.device.config[0x40:0x44] == b"wxyz"


def test_big_accesses_go_in_pieces() -> None:
    pair = Pair(server_limits=ServerLimits(max_transfer=1000), client_limits=ClientLimits(max_transfer=600))
    data = bytes(range(256)) * 48
    assert pair.do(pair.client.region_write, 1, 0, data) is None
    assert pair.device.memory.buffer == data
    assert pair.do(pair.client.region_read, 1, 0, len(data)) == data
    assert pair.do(pair.client.region_read, 1, 256, 1200) == data[256:1456]
    assert pair.errno(pair.client.region_read, 1, 0x2F00, 1200) == EINVAL
    assert pair.errno(pair.client.region_write, 1, 0x2F00, bytes(1200)) == EINVAL


def test_no_piece_too_many() -> None:
    client = Client(capabilities=Capabilities(max_data_xfer_size=8))
    for length, pieces in ((8, 1), (9, 2), (16, 2)):
        client.machine.region_write(0, 0, bytes(length), client.heard.append)
        for _ in range(pieces):
            assert client.heard == []
            client.reply()
        assert client.heard.pop() is None
        client.machine.migration_write(bytes(length), client.heard.append)
        for _ in range(pieces):
            assert client.heard == []
            client.reply()
        assert client.heard.pop() is None


def test_posted_writes() -> None:
    pair = Pair(server_limits=ServerLimits(max_transfer=3))
    assert pair.do(pair.client.region_write, 7, 0x40, b"abcdefgh", posted=True) is None
    assert pair.do(pair.client.region_write, 7, 0x100, b"beyond", posted=True) is None
    assert pair.device.config[0x40:0x48] == b"abcdefgh"
    assert pair.client.waiting == 0
    pair.client.lost("gone")
    assert pair.errno(pair.client.region_write, 7, 0x40, b"x", posted=True) == ENODEV


def test_memory_by_messages_and_by_descriptor() -> None:
    pair = Pair(client_limits=ClientLimits(max_transfer=1024))
    low, high = bytearray(0x1000), bytearray(0x1000)
    descriptor = pair.descriptors.make(high)
    assert pair.errno(pair.client.dma_map, 0, 0x1000, 3, 0, None, memoryview(low)) == 0
    assert pair.errno(pair.client.dma_map, 0x1000, 0x1000, 3, 0, descriptor, memoryview(high)) == 0
    assert pair.do(pair.client.region_write, 7, 0xF0, b"abcd") is None
    assert low[:4] == b"abcd"
    low[:8] = b"12345678"
    assert pair.do(pair.client.region_read, 7, 0xF0, 8) == b"12345678"
    assert pair.errno(pair.client.dma_map, 0, 0x2000, 3, 0, None, None) == EEXIST
    assert len(pair.client.memory) == 2
    assert pair.errno(pair.client.dma_unmap, 0, 0x800) == ENOENT
    assert pair.errno(pair.client.dma_unmap, 0, 0x1000) == 0
    assert pair.errno(pair.client.region_read, 7, 0xF0, 8) == EFAULT
    assert len(pair.client.memory) == 1
    assert pair.errno(pair.client.dma_unmap, 0, 0, all_=True) == 0
    assert len(pair.client.memory) == 0
    pair.descriptors.close(descriptor)
    assert pair.open_descriptors == 0


def test_a_refused_map_is_forgotten() -> None:
    pair = Pair()
    assert pair.errno(pair.client.dma_map, 0x1000, 0x1000, 0x40, 0, None, memoryview(bytearray(0x1000))) == EINVAL
    assert len(pair.client.memory) == 0
    with pytest.raises(LocalError):
        pair.client.dma_map(0, 0x1000, 3, 0, None, memoryview(bytearray(0x800)), lambda _result: None)


def test_migration_to_another_device() -> None:
    source, target = (
        Pair(client_limits=ClientLimits(max_transfer=1000)),
        Pair(server_limits=ServerLimits(max_transfer=999)),
    )
    source.device.memory.view[:] = bytes(range(256)) * 48
    source.device.bar0 = b"timer..."

    def state(pair: Pair, number: int) -> None:
        assert pair.do(pair.client.feature, 0x20002, pack("<Ii", number, -1), 0) == pack("<Ii", number, -1)

    assert source.do(source.client.feature, 0x10001, b"", 8) == pack("<Q", 5)
    state(source, 3)
    state(target, 4)
    while data := source.do(source.client.migration_read, 1 << 30):
        assert isinstance(data, bytes)
        assert target.do(target.client.migration_write, data) is None
    state(target, 1)
    state(target, 2)
    assert target.device.memory.buffer == source.device.memory.buffer
    assert target.device.bar0 == b"timer..."
    assert source.errno(source.client.migration_write, b"x") == EINVAL
    assert target.errno(target.client.migration_read, 100) == EINVAL
    assert target.do(target.client.migration_write, b"") is None, "nothing to send"
