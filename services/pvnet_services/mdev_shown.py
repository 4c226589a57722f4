"""What an mdev host shows of itself: plain dicts, as ``pvnet mdev list --json`` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvnet.mdev.errors import MdevError
from pvnet.mdev.life_objects import Mdev
from pvnet.mdev.names import IrqFlag, RegionFlag

if TYPE_CHECKING:
    from pvnet_services.mdev_host import MdevHostNode


def shown_host(node: MdevHostNode) -> dict[str, Any]:
    """Everything: parents with their types, devices."""
    parents = []
    for name, parent in node.registry.parents().items():
        types = [
            {
                "name": full,
                "pretty_name": kind.pretty_name,
                "description": kind.description,
                "available": _available(node, name, full),
            }
            for full, kind in parent.types.items()
        ]
        parents.append(
            {"name": name, "driver": parent.driver.name, "device_api": parent.driver.device_api, "types": types}
        )
    mdevs = [shown_mdev(node, mdev) for mdev in node.registry.mdevs().values()]
    return {"host": node.endpoint.name, "parents": parents, "mdevs": mdevs, "claims": sorted(node.claims)}


def _available(node: MdevHostNode, parent: str, full: str) -> int:
    try:
        return node.registry.available(parent, full)
    except MdevError:
        return 0


def shown_mdev(node: MdevHostNode, mdev: Mdev) -> dict[str, Any]:
    """One device."""
    name = str(mdev.name)
    server = node.sockets.get(name)
    regions, irqs = mdev.works.regions, mdev.works.irqs
    return {
        "name": name,
        "type": mdev.type_name,
        "parent": mdev.parent.name,
        "device_api": mdev.parent.driver.device_api,
        "state": mdev.state.value,
        "online": mdev.online,
        "iommu_group": mdev.group,
        "partition": node.assigned.get(name, ""),
        "user": _user(node, mdev),
        "vfio_user": None if server is None else str(server.path),
        "regions": [
            {"index": index, "size": region.info.size, "flags": _flags(RegionFlag, region.info.flags)}
            for index, region in enumerate(regions)
            if region.info.size
        ],
        "irqs": [
            {"index": index, "count": irq.count, "flags": _flags(IrqFlag, irq.flags)}
            for index, irq in enumerate(irqs)
            if irq.count
        ],
        "attributes": _attributes(node, name),
        "counters": dict(getattr(mdev.vfio, "counters", {})),
    }


def _attributes(node: MdevHostNode, name: str) -> dict[str, str]:
    try:
        return node.registry.attributes(name)
    except MdevError as error:
        return {"error": str(error)}


def _flags(kind: type[RegionFlag | IrqFlag], value: int) -> list[str]:
    return [flag.name.lower() for flag in kind if value & flag and flag.name]


def _user(node: MdevHostNode, mdev: Mdev) -> str | None:
    """Who has it open."""
    if not mdev.in_use:
        return None
    session = next((s for s in node.sessions.sessions if s.device is mdev.vfio), None)
    return session.node if session is not None else "a vfio-user client"
