"""Compares documents with the recordings of real servers that are part of the installed pypowervm package.

Runs in pypowervm's environment.  What is compared is form: which elements stand where, in which namespace and order,
and which of them have text, children, or a link.  The recordings are of older servers: an element that none of them has
is right if pypowervm's wrappers know its name; their order of a resource's elements counts, too.
"""

import re
from pathlib import Path

import pypowervm.tests
from lxml import etree
from pypowervm import wrappers
from pypowervm.wrappers import logical_partition, network

RECORDINGS = {
    "ManagedSystem": ["managedsystem.txt", "fake_managedsystem.txt", "sys_with_sriov.txt"],
    "LogicalPartition": ["lpar.txt", "fake_lpar_feed.txt", "lpar_ibmi.txt", "lpar_sections.txt"],
    "ClientNetworkAdapter": ["cna_feed.txt", "cna_feed1.txt", "fake_cna.txt"],
    "VirtualSwitch": [
        "vswitch_feed.txt",
        "fake_vswitch_feed.txt",
        "fake_virtual_switch.txt",
        "nbbr_virtual_switch.txt",
    ],
    "VirtualNetwork": ["fake_virtual_network_feed.txt", "nbbr_virtual_network.txt"],
    "JobRequest": ["job_request_power_off.txt"],
    "JobResponse": ["job_response_completed_ok.txt", "job_response_completed_failed.txt", "job_response_exception.txt"],
    "HttpErrorResponse": ["fake_httperror.txt", "fake_httperror_service_unavail.txt"],
    "Event": ["event_feed.txt"],
}
ORDERS = {
    "LogicalPartition": logical_partition.LPAR._child_order,
    "ClientNetworkAdapter": network.CNA._child_order,
    "VirtualSwitch": network.VSwitch._child_order,
}
NAMED = {
    name
    for source in Path(wrappers.__file__).parent.glob("*.py")
    for name in re.findall(r"['\"]([A-Z]\w+)['\"]", source.read_text(encoding="utf-8"))
}
ATOM = "{http://www.w3.org/2005/Atom}"


def recorded(kind):
    """The documents of a kind that real servers sent."""
    folder = Path(pypowervm.tests.__file__).parent / "data"
    for name in RECORDINGS[kind]:
        text = (folder / name).read_text(encoding="utf-8")
        for body in re.findall(r"BODY\{(.*?)END OF SECTION\}", text, re.DOTALL):
            if body.strip().startswith("<"):
                yield body.strip()


def walk(element, path, found):
    """Note every element below ``element``: by its path of qualified names."""
    children = [child for child in element if isinstance(child.tag, str)]
    note = found.setdefault(path, {"attributes": set(), "text": False, "before": set(), "parent": False})
    note["attributes"] |= {name for name in element.attrib if name in {"href", "rel", "schemaVersion"}}
    note["text"] |= bool((element.text or "").strip())
    note["parent"] |= bool(children)
    names = [child.tag for child in children]
    note["before"] |= {
        (first, second) for place, first in enumerate(names) for second in names[place + 1 :] if first != second
    }
    for child in children:
        walk(child, (*path, child.tag), found)


def seen(bodies, kind):
    """All paths of all documents: those of the Atom around it, and those of the resource."""
    atom, content = {}, {}
    for body in bodies:
        root = etree.fromstring(body)
        feed = root.tag == ATOM + "feed"
        entries = root.findall(ATOM + "entry") if feed else [root]
        for entry in entries:
            (place,) = entry.findall(ATOM + "content")
            if kind == place[0].tag.rpartition("}")[2]:
                walk(place[0], (place[0].tag,), content)
                place.remove(place[0])
                walk(entry, (entry.tag,), atom)
            root.remove(entry) if feed else None
        if feed:
            walk(root, (root.tag,), atom)
    return atom, content


def short(path):
    return "/".join(tag.rpartition("}")[2] for tag in path)


def differences(kind, served):
    """What the documents of a kind do otherwise than real ones, in words; and how many paths were compared."""
    told = []
    compared = 0
    for ours, theirs in zip(seen(served, kind), seen(recorded(kind), kind), strict=True):
        for path, note in ours.items():
            known = theirs.get(path)
            if known is None:
                if path[:-1] in theirs and short(path[-1:]) not in NAMED:
                    told.append(f"{short(path)}: no real server sent it")
                continue
            compared += 1
            if note["attributes"] - known["attributes"]:
                told.append(f"{short(path)}: attributes {sorted(note['attributes'] - known['attributes'])}")
            if note["text"] and known["parent"]:
                told.append(f"{short(path)}: text where real servers have elements")
            if note["parent"] and known["text"]:
                told.append(f"{short(path)}: elements where real servers have text")
            turned = {(first, second) for first, second in note["before"] if (second, first) in known["before"]}
            turned -= known["before"]
            told += [f"{short(path)}: {short((a,))} stands before {short((b,))}" for a, b in sorted(turned)]
    order = [name for name in ORDERS.get(kind, ()) if name]
    for body in served:
        for element in etree.fromstring(body).iter(f"{{*}}{kind}"):
            names = [short((child.tag,)) for child in element if short((child.tag,)) in order]
            if names != sorted(names, key=order.index):
                told.append(f"{kind}: in the order {names}, pypowervm's is {sorted(names, key=order.index)}")
    return {"compared": compared, "differences": sorted(told)}
