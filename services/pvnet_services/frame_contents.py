"""Frames of the switches for a recorder: they move through shared memory, so no message carries them.

Costs nothing while nobody records.  A recorder that asks for messages only (snaplen 0) gets none.
"""

from __future__ import annotations

from typing import Final

from pvnet.capture.model import LINKTYPE_ETHERNET
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.message_tap import IN
from pvnet.vbus.packet import ACCEPTS_NOTHING, MAX_MTU, Packet
from pvnet_services.switches import HostedSwitch, Switches

_PORT: Final = "recorder"


class _FramePort:
    """A mirror port of a switch whose frames go to the recorder."""

    mtu = MAX_MTU
    accepts = ACCEPTS_NOTHING
    name = _PORT

    def __init__(self, endpoint: Endpoint, switch: str, snaplen: int) -> None:
        self._endpoint = endpoint
        self._channel = switch.encode()
        self._snaplen = snaplen

    def deliver(self, packets: list[Packet]) -> int:
        """Take frames; never holds the switch up."""
        tap = self._endpoint.taps.recorder
        if tap is not None:
            for packet in packets:
                frame = packet.tobytes()
                tap.record(IN, LINKTYPE_ETHERNET, self._channel, b"", frame[: self._snaplen], len(frame))
        return len(packets)


class SwitchContents:
    """Mirrors every switch while somebody records."""

    def __init__(self, endpoint: Endpoint, switches: Switches) -> None:
        self._endpoint = endpoint
        self._switches = switches
        self._snaplen = 0
        endpoint.taps.on_change.append(self._changed)
        switches.on_added.append(self._mirror)

    def _changed(self, snaplen: int) -> None:
        self._snaplen = snaplen
        for switch in self._switches.all():
            switch.running.unplug(_PORT)
            self._mirror(switch)

    def _mirror(self, switch: HostedSwitch) -> None:
        if self._snaplen:
            port = _FramePort(self._endpoint, switch.config.name, self._snaplen)
            switch.running.plug_sink(port, mirror=True)
