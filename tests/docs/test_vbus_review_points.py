"""The points that were raised when vbus was proposed and that have no other test: docs/vbus.md, 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from vbus_core_rig import BASE, RawNorth

from pvnet.ring.shm_signal import ShmSignal
from pvnet.runtime.fence import full_fence
from pvnet.vbus.bridge_io import Doorbell
from pvnet.vbus.bus import BusRegistry
from pvnet.vbus.echo import ECHO_CLASS, HEADER, MAILBOX
from pvnet.vbus.layout import Doorbell as Register
from pvnet.vbus.layout import Event, EventId

ROOT = Path(__file__).resolve().parents[2]


def test_words() -> None:
    """R2: the word that means something else is used for nothing here."""
    for path in [
        *(ROOT / "pvnet").rglob("*.py"),
        *(ROOT / "services").rglob("*.py"),
        *(ROOT / "proto").rglob("*.proto"),
    ]:
        # what QEMU prints is QEMU's: its log is read by these words
        own = re.sub(r"hypercall (r3=|made with MSR)", "", path.read_text(), flags=re.IGNORECASE)
        assert not re.search("hypercall", own, re.IGNORECASE), path
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        found = [line for line in path.read_text().splitlines() if re.search("hypercall", line, re.IGNORECASE)]
        assert [line for line in found if not line.startswith("| R2 |")] == []


@pytest.mark.parametrize("signal_at", [24, 48, 104])
def test_a_region_may_have_any_format(signal_at: int) -> None:
    """R4: DEVSHM takes memory with a signal somewhere in it; what the rest is, device and driver know."""
    registry = BusRegistry({"echo": ECHO_CLASS})
    registry.bus_create("lan")
    registry.join("lpar1", "lan")
    registry.device_create("echo", "echo0")
    registry.attach("echo0", "lan")
    north = RawNorth(registry)
    assert north.up() == 0
    assert north.pop() == [Event(EventId.DEVADD, 0, "echo")]
    address, length = BASE + 0x9000, 120
    region = north.arena.slice(address, length)
    signal = ShmSignal.create(region, signal_at, full_fence)
    signal.enable()
    message = b"mail"
    handle = north.shm(north.open(0), MAILBOX, cookie=77, length=length, offset=signal_at, address=address)
    assert handle > 0
    region[: HEADER.size + len(message)] = HEADER.pack(len(message), 1, 0, 0) + message
    assert signal.inject(), "the device asked to be rung"
    north.feed(Doorbell(Register.SHMSIGNAL, handle))
    assert HEADER.unpack_from(region)[2] == 1
    assert bytes(region[HEADER.size : HEADER.size + len(message)]) == b"liam"
    assert north.pop() == [Event(EventId.SHMSIGNAL, 77)]
