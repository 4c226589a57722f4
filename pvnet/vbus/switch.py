"""A learning ethernet switch over :class:`~pvnet.vbus.packet.NetPort`: who is where, and what goes to whom.

What it does to a batch of packets from one port: learn the source addresses, find the destinations, and give every
destination its packets in one call.  Frames to a group or to an address that nobody has shown go to all other ports.
Nothing ever leaves through the port that it came from.

* Every port is in one VLAN, and only ports of the same one reach each other; each VLAN has a table of addresses of its
  own, of ``table_size``.  A tag inside of a frame is part of what it carries.
* An address is forgotten after ``ageing_s`` without a frame from it; of more than ``table_size`` addresses the one that
  was silent for longest goes.  (A frame renews its address at most once a second, so both are exact to a second.)
* What a port sends to everybody is limited (``flood_limit`` packets a second, and as many at once).
* A packet with something left to do (checksum, segmentation) stays as it is for receivers that accept that; for the
  others it is finished once, however many they are.
* 01:80:C2:00:00:00 to 0F are never forwarded (IEEE 802.1Q 8.6.3), nor frames from a group address.
* A mirror port sees every packet that comes in, takes part in nothing else and is not probed.
* Loops: :mod:`pvnet.vbus.switch_loops`.  A probe that comes in at a port of another VLAN is a frame like others: who
  joins two VLANs has made no loop yet.

Every drop is counted at a port under its :class:`~pvnet.vbus.offload.DropReason`: at the sender if the frame was bad or
unwanted, at the receiver if that did not take it.  Like every machine the switch has no clock: ``now`` is in seconds,
and ``tick`` is due at ``deadline()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pvnet.core.errors import LocalError
from pvnet.core.machine import Note
from pvnet.vbus.offload import DropReason, finish, frame_bytes
from pvnet.vbus.packet import ACCEPTS_TAP, ETHERNET_HEADER, NO_OFFLOAD, VLAN_TAG, GsoType, NetPort, Packet
from pvnet.vbus.switch_loops import PROBE_ETHERTYPE, Prober
from pvnet.vbus.switch_table import AddressTable, SwitchPort, mac_text

_RESERVED: Final = b"\x01\x80\xc2\x00\x00"
_NO_SOURCE: Final = bytes(6)
_VLAN: Final = (b"\x81\x00", b"\x88\xa8")
VLAN_DEFAULT: Final = 1
VLAN_MAX: Final = 4094


@dataclass(frozen=True, slots=True)
class SwitchOptions:
    """Times in seconds; limits are per second.  ``probe_interval_s`` 0 sends no probes."""

    ageing_s: float = 300.0
    table_size: int = 4096
    flood_limit: int = 20_000
    flap_limit: int = 10
    probe_interval_s: float = 2.0
    block_s: float = 30.0


class Switch:
    """One switch.  ``secret`` is for its probes; ``note`` hears of loops and of ports that come and go."""

    def __init__(
        self,
        secret: bytes,
        options: SwitchOptions | None = None,
        *,
        note: Callable[[Note], None] = lambda _: None,
    ) -> None:
        self.options = options or SwitchOptions()
        self._note = note
        self._prober = Prober(secret)
        self._ports: list[SwitchPort] = []
        self._mirrors: list[SwitchPort] = []
        self._number = 0
        self._tables: dict[int, AddressTable] = {}
        """By VLAN that a port is in, or was."""
        self._probe_at: float | None = None
        self.loops = 0

    def plug(self, port: NetPort, *, mirror: bool = False, vlan: int = VLAN_DEFAULT) -> SwitchPort:
        """Add a port and return what :meth:`receive` wants to know it by.

        Raises:
            LocalError: a port of this name is there, or no such VLAN can be.
        """
        if any(port.name == other.name for other in self._ports + self._mirrors):
            raise LocalError(f"the switch has a port {port.name!r} already")
        self._number += 1
        plugged = SwitchPort(
            port, self._number, self._table(vlan), vlan=vlan, mirror=mirror, flood_limit=self.options.flood_limit
        )
        (self._mirrors if mirror else self._ports).append(plugged)
        self._note(Note("port_plugged", (("port", plugged.name),), "info"))
        return plugged

    def _table(self, vlan: int) -> AddressTable:
        if not 1 <= vlan <= VLAN_MAX:
            raise LocalError(f"VLAN {vlan}: expected 1 to {VLAN_MAX}")
        table = self._tables.get(vlan)
        if table is None:
            table = self._tables[vlan] = AddressTable(self.options.ageing_s, self.options.table_size)
        return table

    def set_vlan(self, port: SwitchPort, vlan: int) -> None:
        """Put a port that is plugged in into another VLAN.

        Raises:
            LocalError: no such VLAN can be.
        """
        table = self._table(vlan)
        if vlan != port.vlan:
            self.forget(port)
            port.vlan, port.table = vlan, table

    def unplug(self, port: SwitchPort) -> None:
        """Remove a port and forget the addresses behind it; what still comes from it is dropped."""
        if port not in self._ports + self._mirrors:
            return
        (self._mirrors if port.mirror else self._ports).remove(port)
        port.mute = True
        self.forget(port)
        self._note(Note("port_unplugged", (("port", port.name),), "info"))

    def forget(self, port: SwitchPort) -> None:
        """Forget the addresses behind a port, for instance because its link went down."""
        port.table.forget(port)

    def receive(self, source: SwitchPort, packets: list[Packet], now: float) -> None:
        """Switch packets that came in at ``source``; their memory is not needed any more when this returns."""
        table = source.table
        if now >= table.sweep_at:
            table.sweep(now)
        source.rx_packets += len(packets)
        if source.blocked_until is not None or source.mute:
            self._refused(source, packets, now)
            return
        if self._mirrors:
            for mirror in self._mirrors:
                if mirror is not source:
                    self._send(mirror, packets, {})
        known = table.entries
        groups: dict[SwitchPort, list[Packet]] = {}
        everybody: list[SwitchPort] | None = None
        last_head = b""
        goal: list[Packet] | None = None
        total = 0
        for packet in packets:
            total += packet.length
            head = bytes(packet.frags[0][:12]) if packet.frags else b""
            if head == last_head and goal is not None and packet.length >= ETHERNET_HEADER:
                goal.append(packet)
                continue
            goal = None
            if len(head) < 12 or packet.length < ETHERNET_HEADER:
                head = packet.tobytes()[:12]
                if packet.length < ETHERNET_HEADER:
                    source.drops[DropReason.RUNT] += 1
                    continue
            destination = head[:6]
            to_group = destination[0] & 1
            if to_group and self._is_ours(source, destination, packet, now):
                continue
            sender = head[6:]
            entry = known.get(sender)
            must_learn = entry is None or entry.port is not source or now >= entry.renew_at
            if must_learn and not self._learn(source, sender, now):
                continue
            if not to_group:
                found = known.get(destination)
                if found is not None:
                    target = found.port
                    if target is source:
                        source.drops[DropReason.SAME_PORT] += 1
                        continue
                    goal = groups.get(target)
                    if goal is None:
                        goal = groups[target] = [packet]
                    else:
                        goal.append(packet)
                    last_head = head
                    continue
            if everybody is None:
                vlan = source.vlan
                everybody = [
                    port
                    for port in self._ports
                    if port is not source and port.blocked_until is None and port.vlan == vlan
                ]
            if not everybody:
                source.drops[DropReason.NO_PORT] += 1
            elif not source.may_flood(now):
                source.drops[DropReason.FLOOD_LIMIT] += 1
            else:
                for port in everybody:
                    groups.setdefault(port, []).append(packet)
        source.rx_bytes += total
        finished: dict[int, list[Packet] | DropReason] = {}
        for port, group in groups.items():
            if port.blocked_until is None:  # it may have been blocked by a probe in this batch
                self._send(port, group, finished)
            else:
                port.drops[DropReason.BLOCKED] += len(group)

    def _refused(self, source: SwitchPort, packets: list[Packet], now: float) -> None:
        """Drop what a blocked port brings, except that its probes show that the loop is still there."""
        for packet in packets:
            source.rx_bytes += packet.length
            source.drops[DropReason.BLOCKED] += 1
            if not source.mute and packet.length >= ETHERNET_HEADER and packet.frags[0][12:14] == PROBE_ETHERTYPE:
                self._probe_came(source, packet, now)

    def _learn(self, source: SwitchPort, address: bytes, now: float) -> bool:
        """Note where a sender is; ``False`` if its frame was dropped, which is counted."""
        if address[0] & 1 or address == _NO_SOURCE:
            source.drops[DropReason.BAD_SOURCE] += 1
            return False
        table = source.table
        learned = table.learn(address, source, now, self.options.flap_limit, self.options.block_s)
        if not learned:
            source.drops[DropReason.FLAPPING] += 1
        moved = table.newly_held
        if moved is not None:
            table.newly_held = None
            self.loops += 1
            home, other = moved
            fields = (("sign", "flapping"), ("address", mac_text(address)), ("port", home.name), ("other", other.name))
            self._note(Note("loop_detected", fields, "warning"))
        return learned

    def _is_ours(self, source: SwitchPort, destination: bytes, packet: Packet, now: float) -> bool:
        """Whether a frame to a group goes no further: a reserved address, or one of our probes."""
        if destination.startswith(_RESERVED) and destination[5] < 16:
            source.drops[DropReason.RESERVED] += 1
            return True
        return packet.frags[0][12:14] == PROBE_ETHERTYPE and self._probe_came(source, packet, now)

    def _probe_came(self, source: SwitchPort, packet: Packet, now: float) -> bool:
        """Take a frame that may be our probe; ``False`` if it is none."""
        number = self._prober.sent_by(packet.tobytes())
        if number is None:
            return False
        sender = next((port for port in self._ports if port.number == number), None)
        if sender is None:
            return True
        if sender.vlan != source.vlan:
            return False
        later = max(sender, source, key=lambda port: port.number)
        fresh = later.blocked_until is None
        later.blocked_until = now + self.options.block_s
        if fresh:
            self.loops += 1
            self.forget(later)
            fields = (("sign", "probe"), ("port", later.name), ("other", min(sender, source, key=_number).name))
            self._note(Note("loop_detected", fields, "warning"))
        return True

    def _send(self, port: SwitchPort, packets: list[Packet], finished: dict[int, list[Packet] | DropReason]) -> None:
        """Give a port its packets, after what it cannot take was finished or dropped."""
        net_port = port.net_port
        limit = net_port.mtu + ETHERNET_HEADER
        accepts = net_port.accepts
        all_tcp = accepts & ACCEPTS_TAP == ACCEPTS_TAP
        total = 0
        for packet in packets:
            total += packet.length
            offload = packet.offload
            if offload is NO_OFFLOAD:
                if packet.length <= limit:
                    continue
            elif ((all_tcp and offload.gso is not GsoType.UDP) or not offload.requires & ~accepts) and (
                packet.length <= limit or frame_bytes(packet) <= limit
            ):
                continue
            packets = self._fitted(port, packets, limit, accepts, finished)
            total = sum(packet.length for packet in packets)
            break
        if not packets:
            return
        taken = net_port.deliver(packets)
        if taken < len(packets):
            port.drops[DropReason.NOT_TAKEN] += len(packets) - taken
            total = sum(packet.length for packet in packets[:taken])
        port.tx_packets += taken
        port.tx_bytes += total

    def _fitted(
        self,
        port: SwitchPort,
        packets: list[Packet],
        limit: int,
        accepts: int,
        finished: dict[int, list[Packet] | DropReason],
    ) -> list[Packet]:
        """Return the packets as the port can take them; ``finished`` keeps the work for other ports of the batch."""
        fitted: list[Packet] = []
        for packet in packets:
            result: list[Packet] | DropReason | None = [packet]
            if packet.offload.requires & ~accepts:
                result = finished.get(id(packet))
                if result is None:
                    result = finished[id(packet)] = finish(packet)
            assert result is not None
            if isinstance(result, DropReason):
                port.drops[result] += 1
                continue
            # The first frame is the longest one.
            first = result[0]
            if frame_bytes(first) > limit and not (_is_tagged(first) and frame_bytes(first) <= limit + VLAN_TAG):
                port.drops[DropReason.TOO_LONG] += 1
                continue
            fitted += result
        return fitted

    def tick(self, now: float) -> None:
        """Do what is due: forget old addresses, free blocked ports, send probes."""
        for table in self._tables.values():
            if now >= table.sweep_at:
                table.sweep(now)
        for port in self._ports:
            if port.blocked_until is not None and now >= port.blocked_until:
                port.blocked_until = None
                self._note(Note("port_unblocked", (("port", port.name),), "info"))
        interval = self.options.probe_interval_s
        if interval and (self._probe_at is None or now >= self._probe_at):
            self._probe_at = now + interval
            self._prober.next_round()
            for port in list(self._ports):
                if port.blocked_until is None:
                    frame = self._prober.frame(port.number)
                    port.net_port.deliver([Packet((frame,), len(frame))])

    def deadline(self) -> float | None:
        """Return when :meth:`tick` is due: at once before the first time, ``None`` if nothing will ever be."""
        due = [port.blocked_until for port in self._ports if port.blocked_until is not None]
        if self.options.probe_interval_s:
            due.append(self._probe_at if self._probe_at is not None else 0.0)
        due += [table.sweep_at for table in self._tables.values() if table.entries]
        return min(due) if due else None

    def shown(self, now: float) -> dict[str, object]:
        """Return ports with counters, the address tables and the totals, as plain values for JSON."""
        tables = [table for _, table in sorted(self._tables.items())]
        return {
            "ports": [port.shown(now) for port in self._ports + self._mirrors],
            "addresses": [each for table in tables for each in table.shown(now)],
            "moves": sum(table.moves for table in tables),
            "evicted": sum(table.evicted for table in tables),
            "loops": self.loops,
            "mac": mac_text(self._prober.mac),
        }


def _number(port: SwitchPort) -> int:
    return port.number


def _is_tagged(packet: Packet) -> bool:
    """Whether the frame has an 802.1Q tag, for which 4 bytes more than the MTU are allowed."""
    return bytes(packet.frags[0][12:14]) in _VLAN
