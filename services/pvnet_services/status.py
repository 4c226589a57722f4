"""What ``show_status`` says of the machines of a node: states, and counts of everything that could leak."""

from __future__ import annotations

from pvnet.vmc.hypervisor import VmcHypervisor
from pvnet.vmc.partition import VmcPartition


def partition_vmc(machine: VmcPartition) -> dict[str, object]:
    """Return the status of a management partition's VMC adapter."""
    connections = machine.sessions.connections
    return {
        "state": machine.state.name.lower(),
        "sessions": sum(1 for slot in connections.slots if slot.state),
        "files": len(connections.files),
        "copies_under_way": len(connections.transfers),
        "indices": [
            {
                "state": slot.state.name.lower(),
                "session": slot.session,
                "unread": len(slot.inbound),
                "blocked": len(slot.waiters),
                "buffers": slot.pool.counts(),
            }
            for slot in connections.slots
        ],
        "counters": dict(machine.counters),
        "link_counters": dict(machine.link_counters),
    }


def hypervisor_vmc(machine: VmcHypervisor) -> dict[str, object]:
    """Return the status of the hypervisor's end of a VMC adapter."""
    return {
        "state": machine.state.name.lower(),
        "sessions": sum(1 for index in machine.indices if index.session),
        "indices": [
            {
                "state": index.state.name.lower(),
                "session": index.session,
                "unsent": len(index.unsent),
                "buffers": index.pool.counts(),
            }
            for index in machine.indices
        ],
        "counters": dict(machine.counters),
    }
