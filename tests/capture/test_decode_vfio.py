"""vfio-user messages inside an envelope, each command and its reply."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from decode_rig import decoded

from pvnet.capture.decode import Decoded
from pvnet.mdev import vfio_layout as vl
from pvnet.mdev import vfio_user as vu
from pvnet.mdev.info import DeviceInfo, IrqInfo, RegionInfo
from pvnet.mdev.vfio_user_version import Capabilities, encode_version
from pvnet.pb.v1.mdev_pb2 import MdevMessage


def vfio(parts: Sequence[vu.Data], source: str = "lpar1", destination: str = "mdevs") -> Decoded:
    return decoded(source, destination, mdev_message=MdevMessage(session=4, message=b"".join(parts), descriptors=[]))


@pytest.mark.parametrize(
    ("command", "body", "text", "field", "value"),
    [
        (vu.Command.VERSION, encode_version(Capabilities()), "VERSION 0.2 {", "vfio.major", 0),
        (vu.Command.DMA_MAP, vu.DMA_MAP.pack(32, 3, 0, 0x1000, 0x2000), "DMA_MAP 0x1000 of 0x2000 bytes READ|WRITE",
         "vfio.length", 0x2000),
        (vu.Command.DMA_UNMAP, vu.DMA_UNMAP.pack(24, 2, 0, 0), "DMA_UNMAP 0x0 of 0x0 bytes", "vfio.unmap_flags", 2),
        (vu.Command.DEVICE_GET_INFO, vl.encode_device_info(DeviceInfo(2, 9, 5)), "DEVICE_GET_INFO", "vfio.regions", 9),
        (vu.Command.DEVICE_GET_REGION_INFO, vl.encode_region_info(7, RegionInfo(256, 3), 32).data,
         "DEVICE_GET_REGION_INFO region 7", "vfio.region_size", 256),
        (vu.Command.DEVICE_GET_REGION_IO_FDS, vu.IO_FDS.pack(16, 0, 2, 0), "DEVICE_GET_REGION_IO_FDS region 2",
         "vfio.region", 2),
        (vu.Command.DEVICE_GET_IRQ_INFO, vl.encode_irq_info(1, IrqInfo(4, 1)), "DEVICE_GET_IRQ_INFO irq 1",
         "vfio.irq_count", 4),
        (vu.Command.DEVICE_SET_IRQS, vl.encode_irq_set(vl.IrqSetHead(0x22, 0, 0, 1, b"\1")),
         "DEVICE_SET_IRQS irq 0 start 0 count 1 BOOL|TRIGGER", "vfio.data", b"\1"),
        (vu.Command.REGION_READ, vu.ACCESS.pack(4, 7, 2), "REGION_READ region 7 at 0x4, 2 bytes", "vfio.offset", 4),
        (vu.Command.REGION_WRITE, vu.ACCESS.pack(4, 7, 2) + b"ab", "REGION_WRITE region 7 at 0x4, 2 bytes: 6162",
         "vfio.data", b"ab"),
        (vu.Command.REGION_WRITE_MULTI, vu.MULTI_HEAD.pack(1) + vu.MULTI_ENTRY.pack(0, 0, 1, b"x"),
         "REGION_WRITE_MULTI 1 writes: ", "vfio.count", 1),
        (vu.Command.DMA_READ, vu.DMA.pack(0x1000, 512), "DMA_READ 0x1000, 512 bytes", "vfio.address", 0x1000),
        (vu.Command.DEVICE_FEATURE, vl.encode_feature(1 << 17 | 2, vl.encode_device_state(3)),
         "DEVICE_FEATURE MIG_DEVICE_STATE SET STOP_COPY", "vfio.migration_state", 3),
        (vu.Command.DEVICE_FEATURE, vl.encode_feature(1 << 16 | 1), "DEVICE_FEATURE MIGRATION GET", "vfio.feature", 1),
        (vu.Command.MIG_DATA_READ, vu.MIG_DATA.pack(8, 100), "MIG_DATA_READ 100 bytes", "vfio.count", 100),
        (vu.Command.DEVICE_RESET, b"", "DEVICE_RESET", "vfio.id", 5),
    ],
)  # fmt: skip
def test_commands(command: int, body: bytes, text: str, field: str, value: object) -> None:
    item = vfio(vu.command_parts(5, command, body))
    assert item.summary.startswith(f"session 4 {text}")
    assert item.get(field) == value
    assert item.problems == ()
    assert (item.call, item.is_reply, bool(item.pair)) == (5, False, True)
    reply = vfio(vu.reply_parts(5, command, body), "mdevs", "lpar1")
    assert (reply.is_reply, reply.pair, reply.problems) == (True, item.pair, ())


def test_an_error_reply_names_the_errno() -> None:
    item = vfio(vu.error_parts(5, vu.Command.REGION_READ, 22), "mdevs", "lpar1")
    assert item.summary == "session 4 REGION_READ reply EINVAL"
    assert item.get("vfio.error") == 22


def test_replies_without_a_payload() -> None:
    assert vfio(vu.reply_parts(5, vu.Command.DMA_MAP)).problems == ()
    assert vfio(vu.reply_parts(5, vu.Command.DMA_WRITE, vu.DMA_COUNT.pack(4))).problems == ()


def test_no_reply_is_waited_for() -> None:
    assert vfio(vu.command_parts(5, vu.Command.DEVICE_RESET, flags=vu.NO_REPLY)).pair == ""


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"short", "vfio-user message of 5 bytes, 16 are the least"),
        (vu.HEADER.pack(1, 13, 99, 0, 0), "vfio-user: size 99 in a message of 16 bytes"),
        (vu.HEADER.pack(1, 13, 16, 7, 0), "vfio-user: type 7"),
        (vu.HEADER.pack(1, 99, 16, 0, 0), "vfio-user: unknown command 99"),
        (vu.HEADER.pack(1, 13, 16, 1, 5), "vfio-user: errno 5 without the Error bit"),
        (vu.HEADER.pack(1, 9, 18, 0, 0) + b"ab", "REGION_READ: 2 bytes of payload, 16 are the least"),
    ],
)
def test_what_is_wrong_with_a_message(message: bytes, problem: str) -> None:
    assert problem in vfio([message]).problems


def test_a_state_that_nobody_knows_prints_as_a_number() -> None:
    body = vl.encode_feature(1 << 17 | 2, struct.pack("<Ii", 99, -1))
    assert vfio(vu.command_parts(1, vu.Command.DEVICE_FEATURE, body)).summary.endswith("SET 99")
