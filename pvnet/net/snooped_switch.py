"""A switch as one of its ports sees it while that port's frames are recorded (``?snoop=`` of ``pvnet attach``).

What is recorded are the port's frames as they stand: those that it brought into the switch, and those that it took.  A
packet of a TAP with work left to do (a checksum, segments to be cut) is recorded as it is, as other captures of TAPs
do.
"""

from __future__ import annotations

from collections.abc import Callable

from pvnet.capture.model import LINKTYPE_ETHERNET, Direction, Interface
from pvnet.capture.snoop import SnoopSink
from pvnet.net.running_switch import PacketSource, RunningSwitch
from pvnet.vbus.packet import NetPort, Packet
from pvnet.vbus.switch import VLAN_DEFAULT
from pvnet.vbus.switch_table import SwitchPort


class _SnoopedPort:
    """A port and who watches it."""

    def __init__(self, port: NetPort, sink: SnoopSink, interface: Interface) -> None:
        self.receive: Callable[[list[Packet]], None] = lambda _packets: None
        self._port = port
        self._sink = sink
        self._interface = interface

    @property
    def name(self) -> str:
        return self._port.name

    @property
    def mtu(self) -> int:
        return self._port.mtu

    @property
    def accepts(self) -> int:
        return self._port.accepts

    def deliver(self, packets: list[Packet]) -> int:
        """Record what the port takes."""
        taken = self._port.deliver(packets)
        self._record(packets[:taken], Direction.OUT)
        return taken

    def came(self, packets: list[Packet]) -> None:
        """Record what comes from the port, and switch it."""
        self._record(packets, Direction.IN)
        self.receive(packets)

    def _record(self, packets: list[Packet], direction: Direction) -> None:
        for packet in packets:
            self._sink.record(self._interface, packet.tobytes(), direction=direction)


class SnoopedSwitch(RunningSwitch):
    """Another view of ``running``: what is plugged in through it is recorded as interfaces of ``node``."""

    def __init__(self, running: RunningSwitch, sink: SnoopSink, node: str) -> None:
        self.__dict__ |= running.__dict__  # one switch, one timer, one set of ports: the other's
        self._sink = sink
        self._node = node

    def plug(self, port: PacketSource) -> SwitchPort:
        """Join a port to the switch and record both ways; raises as :meth:`RunningSwitch.plug`."""
        snooped = self._snooped(port)
        plugged = super().plug(snooped)
        port.receive = snooped.came
        return plugged

    def plug_sink(self, port: NetPort, *, mirror: bool = False, vlan: int = VLAN_DEFAULT) -> SwitchPort:
        """Join a port that only takes, and record what; raises as :meth:`RunningSwitch.plug_sink`."""
        snooped = port if isinstance(port, _SnoopedPort) else self._snooped(port)
        return super().plug_sink(snooped, mirror=mirror, vlan=vlan)

    def _snooped(self, port: NetPort) -> _SnoopedPort:
        interface = Interface(f"{self._node}/{port.name}", LINKTYPE_ETHERNET, f"frames of the switch port {port.name}")
        return _SnoopedPort(port, self._sink, interface)
