"""How ``pvnet mdev`` shows hosts, devices, events and the virtual tree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pvnet.cli.run import columns


def show_lines(hosts: Iterable[dict[str, Any]]) -> list[str]:
    """All hosts: parents with types, devices."""
    lines: list[str] = []
    for host in hosts:
        lines.append(f"mdev host {host['host']}")
        rows = [("  PARENT", "DRIVER", "TYPE", "NAME", "FREE")]
        rows += [
            (f"  {p['name']}", p["driver"], t["name"], t["pretty_name"], str(t["available"]))
            for p in host["parents"]
            for t in p["types"]
        ]
        lines += columns(rows)
        if host["mdevs"]:
            rows = [("  DEVICE", "TYPE", "PARENT", "STATE", "USED BY")]
            rows += [(f"  {m['name']}", m["type"], m["parent"], m["state"], used_by(m)) for m in host["mdevs"]]
            lines += columns(rows)
    return lines


def used_by(mdev: dict[str, Any]) -> str:
    """Who uses a device, or is meant to."""
    if mdev["user"]:
        return str(mdev["user"])
    if mdev["vfio_user"]:
        return f"nobody yet (vfio-user {mdev['vfio_user']})"
    return f"nobody yet ({mdev['partition']})" if mdev["partition"] else "-"


def device_lines(host: str, mdev: dict[str, Any]) -> list[str]:
    """One device."""
    lines = [
        f"{mdev['name']}: {mdev['type']} of {mdev['parent']} at {host}",
        f"state {mdev['state']}, {mdev['device_api']}, used by {used_by(mdev)}",
    ]
    if mdev["vfio_user"]:
        lines.append(f"vfio-user socket {mdev['vfio_user']}")
    rows = [("REGION", "SIZE", "FLAGS")]
    rows += [(str(r["index"]), f"{r['size']:#x}", " ".join(r["flags"])) for r in mdev["regions"]]
    lines += columns(rows)
    if mdev["irqs"]:
        rows = [("IRQ", "VECTORS", "FLAGS")]
        rows += [(str(i["index"]), str(i["count"]), " ".join(i["flags"])) for i in mdev["irqs"]]
        lines += columns(rows)
    lines += [f"{key} = {value}" for key, value in mdev["attributes"].items()]
    return lines


def drivers_lines(drivers: Sequence[dict[str, Any]]) -> list[str]:
    """The vendor drivers."""
    rows = [("DRIVER", "DEVICE API", "PARENT")]
    rows += [(d["name"], d["device_api"], "in every host" if d["standalone"] else "by attributes") for d in drivers]
    return columns(rows)


def events_lines(events: Sequence[dict[str, Any]]) -> list[str]:
    """Events, oldest first."""
    return columns(
        [
            (str(e["number"]), e["action"], e["path"], " ".join(f"{k}={v}" for k, v in e["fields"].items()))
            for e in events
        ]
    )


def tree_lines(shown: Sequence[dict[str, Any]]) -> list[str]:
    """The virtual tree as ``ls -l`` would have it: mode, path, and where a link points."""
    lines = []
    for each in shown:
        if "entries" not in each:
            return [f"{each['mode']}  {each['path']}"]
        lines.append(f"dr-x  {each['path']}")
        base = each["path"].rstrip("/")
        for entry in each["entries"]:
            if entry["kind"] == "link":
                lines.append(f"l---  {base}/{entry['name']} -> {entry['target']}")
            elif entry["kind"] == "file":
                lines.append(f"-{entry['mode']}  {base}/{entry['name']}")
    return lines


def open_lines(shown: dict[str, Any]) -> list[str]:
    """A device of a vfio-user server."""
    lines = [f"protocol {shown['version']}, device {' '.join(shown['flags'])}"]
    if shown["pci"]:
        lines.append(f"PCI {shown['pci']['id']}, class {shown['pci']['class']}")
    rows = [("REGION", "SIZE", "FLAGS")]
    rows += [(str(r["index"]), f"{r['size']:#x}", " ".join(r["flags"])) for r in shown["regions"]]
    lines += columns(rows)
    rows = [("IRQ", "VECTORS", "FLAGS")]
    rows += [(str(i["index"]), str(i["count"]), " ".join(i["flags"])) for i in shown["irqs"]]
    if shown["irqs"]:
        lines += columns(rows)
    lines += [f"{each['where']}: {each['data']}" for each in shown["reads"]]
    return lines
