"""The files that administrators of mediated devices know, as a tree that exists nowhere.

::

    /parents/PARENT/driver                                          ro  name of the vendor driver
                   /attributes/KEY                                  ro
                   /mdev_supported_types/TYPE/create                wo  UUID: makes a device
                                             /available_instances   ro
                                             /device_api            ro  vfio-pci, vfio-ccw, ...
                                             /name                  ro
                                             /description           ro  if it has one
                                             /devices/NAME          ->  the device
                   /NAME/remove                                     wo  a number: not 0 removes the device
                        /mdev_type                                  ->  its type
                        /driver, /iommu_group                       ro  while a bus driver serves it
                        /attributes/KEY                             rw, ro what the device never lets be set
    /bus/mdev/devices/NAME                                          ->  the device
    /class/mdev_bus/PARENT                                          ->  the parent
    /rfc/parents/PARENT/mdev_supported_types                        ro  }
                       /mdev_create, /mdev_destroy                  wo  } the files of 2016: pvnet.mdev.rfc
    /rfc/class/mdev/mdev_start, /mdev_shutdown                      wo  }

NAME is UUID or UUID-instance.  The files of 2016 have a place of their own because ``mdev_supported_types`` was a text
then and is a directory now.

Errors: ENOENT no such path, ENOTDIR something below a file, EISDIR a directory read or written, EACCES the wrong
direction, E2BIG more than a page written; then what the operation says.

Spec: mdev 1.12, 3.2, 9.1 (A5, A6, A14).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from pvnet.mdev import rfc
from pvnet.mdev.errors import MdevError
from pvnet.mdev.life import Registry
from pvnet.mdev.life_attributes import shown
from pvnet.mdev.life_objects import Mdev, Parent
from pvnet.mdev.life_steps import Op, ask
from pvnet.mdev.mdev_uuid import parse_create, parse_integer
from pvnet.papr.errno import E2BIG, EACCES, EINVAL, EISDIR, ENODEV, ENOENT, ENOTDIR

WRITE_MAX: Final = 4096
"""Most bytes of one write."""


class Mode(Enum):
    """What an entry is, as a listing prints it."""

    DIRECTORY = "dir"
    READ = "ro"
    WRITE = "wo"
    BOTH = "rw"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing; ``target`` is the path a link leads to."""

    name: str
    mode: Mode
    target: str = ""


@dataclass(frozen=True, slots=True)
class Directory:
    """Its children are made when somebody looks."""

    children: Callable[[], dict[str, Node]]


@dataclass(frozen=True, slots=True)
class File:
    """Something to read, to write, or both."""

    read: Callable[[], bytes] | None = None
    write: Callable[[bytes], Op[object]] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Leads to a directory."""

    target: str


Node: TypeAlias = Directory | File | Link


class Tree:
    """The tree of one registry.

    :param patience_s: how long a user gets to let go of a device that is removed here.
    """

    def __init__(self, registry: Registry, patience_s: float = 0.0) -> None:
        self._registry = registry
        self._patience_s = patience_s

    def list(self, path: str) -> tuple[Entry, ...]:
        """Return what is in a directory, by name.

        :raises MdevError: ENOENT, ENOTDIR, or as a vendor says whose attributes are asked for.
        """
        node = self._resolve(path)
        if isinstance(node, File):
            raise MdevError(ENOTDIR, path)
        return tuple(_entry(name, child) for name, child in sorted(node.children().items()))

    def mode(self, path: str) -> Mode:
        """Return what is there; a link counts as what it leads to.

        :raises MdevError: as :meth:`list`, without ENOTDIR for a file.
        """
        return _entry(path, self._resolve(path)).mode

    def read(self, path: str) -> bytes:
        """Return what a file says.

        :raises MdevError: ENOENT, ENOTDIR, EISDIR, EACCES, or as the registry or vendor says.
        """
        node = self._resolve(path)
        if isinstance(node, Directory):
            raise MdevError(EISDIR, path)
        if node.read is None:
            raise MdevError(EACCES, path)
        return node.read()

    def write(self, path: str, data: bytes) -> Op[int]:
        """Write to a file, all at once; returns the number of bytes.

        :raises MdevError: ENOENT, ENOTDIR, EISDIR, EACCES, E2BIG, or as the registry says.
        """
        node = self._resolve(path)
        if isinstance(node, Directory):
            raise MdevError(EISDIR, path)
        if node.write is None:
            raise MdevError(EACCES, path)
        if len(data) > WRITE_MAX:
            raise MdevError(E2BIG, path)
        yield from node.write(data)
        return len(data)

    def _resolve(self, path: str) -> Directory | File:
        node: Directory | File = Directory(self._root)
        for name in filter(None, path.split("/")):
            if isinstance(node, File):
                raise MdevError(ENOTDIR, path)
            child = node.children().get(name)
            if child is None:
                raise MdevError(ENOENT, path)
            node = self._resolve(child.target) if isinstance(child, Link) else child
        return node

    # --- directories ---

    def _root(self) -> dict[str, Node]:
        return {
            "parents": Directory(lambda: {name: self._parent(p) for name, p in self._registry.parents().items()}),
            "bus": _directories("mdev/devices", self._all_devices),
            "class": _directories("mdev_bus", self._all_parents),
            "rfc": Directory(self._rfc),
        }

    def _all_devices(self) -> dict[str, Node]:
        return {str(mdev.name): Link(_device_path(mdev)) for mdev in self._registry.mdevs().values()}

    def _all_parents(self) -> dict[str, Node]:
        return {name: Link(f"/parents/{name}") for name in self._registry.parents()}

    def _parent(self, parent: Parent) -> Directory:
        def children() -> dict[str, Node]:
            return {
                "driver": _text(parent.driver.name),
                "attributes": Directory(lambda: self._parent_attributes(parent)),
                "mdev_supported_types": Directory(
                    lambda: {full: Directory(lambda full=full: self._type(parent, full)) for full in parent.types}  # type: ignore[misc]
                ),
                **{str(mdev.name): self._device(mdev) for mdev in _children(parent)},
            }

        return Directory(children)

    def _parent_attributes(self, parent: Parent) -> dict[str, Node]:
        ops = parent.ops
        if ops is None:
            raise MdevError(ENODEV, f"parent {parent.name}")
        found = ask(self._registry.tables.note, f"attributes of {parent.name}", lambda: shown(ops.attributes()))
        return {key: _text(value) for key, value in found.items()}

    def _type(self, parent: Parent, full: str) -> dict[str, Node]:
        kind = parent.types[full]
        nodes: dict[str, Node] = {
            "create": File(write=lambda data: self._registry.create(parent.name, full, parse_create(data))),
            "available_instances": File(lambda: _line(str(self._registry.available(parent.name, full)))),
            "device_api": _text(parent.driver.device_api),
            "name": _text(kind.pretty_name or kind.name),
            "devices": Directory(
                lambda: {str(m.name): Link(_device_path(m)) for m in _children(parent) if m.type_name == full}
            ),
        }
        if kind.description:
            nodes["description"] = _text(kind.description)
        return nodes

    def _device(self, mdev: Mdev) -> Directory:
        def children() -> dict[str, Node]:
            nodes: dict[str, Node] = {
                "remove": File(write=lambda data: self._remove(mdev, data)),
                "mdev_type": Link(f"/parents/{mdev.parent.name}/mdev_supported_types/{mdev.type_name}"),
                "attributes": Directory(lambda: self._attributes(mdev)),
            }
            if mdev.bound is not None:
                nodes["driver"] = _text(mdev.bound.driver.name)
                nodes["iommu_group"] = _text(str(mdev.group))
            return nodes

        return Directory(children)

    def _attributes(self, mdev: Mdev) -> dict[str, Node]:
        read_only = self._registry.read_only(mdev.name)

        def node(key: str, value: str) -> Node:
            if key in read_only:
                return _text(value)
            return File(lambda: _line(value), lambda data: self._registry.set(mdev.name, key, _value(data)))

        return {key: node(key, value) for key, value in self._registry.attributes(mdev.name).items()}

    def _rfc(self) -> dict[str, Node]:
        registry = self._registry
        return {
            "parents": Directory(lambda: {name: Directory(_rfc_parent(self, name)) for name in registry.parents()}),
            "class": _directories(
                "mdev",
                lambda: {
                    "mdev_start": File(write=lambda data: rfc.mdev_start(registry, data)),
                    "mdev_shutdown": File(write=lambda data: rfc.mdev_shutdown(registry, data)),
                },
            ),
        }

    def rfc_parent(self, name: str) -> dict[str, Node]:
        """Return the files of 2016 of one parent."""
        registry, patience_s = self._registry, self._patience_s
        return {
            "mdev_supported_types": File(lambda: rfc.supported_types(registry, name)),
            "mdev_create": File(write=lambda data: rfc.mdev_create(registry, name, data)),
            "mdev_destroy": File(write=lambda data: rfc.mdev_destroy(registry, name, data, patience_s=patience_s)),
        }

    def _remove(self, mdev: Mdev, data: bytes) -> Op[object]:
        if parse_integer(data, 64):
            yield from self._registry.remove(mdev.name, patience_s=self._patience_s)
        return None


def _rfc_parent(tree: Tree, name: str) -> Callable[[], dict[str, Node]]:
    return lambda: tree.rfc_parent(name)


def _entry(name: str, node: Node) -> Entry:
    match node:
        case Directory():
            return Entry(name, Mode.DIRECTORY)
        case Link():
            return Entry(name, Mode.LINK, node.target)
        case File():
            if node.read is None:
                return Entry(name, Mode.WRITE)
            return Entry(name, Mode.READ if node.write is None else Mode.BOTH)


def _directories(path: str, children: Callable[[], dict[str, Node]]) -> Directory:
    first, _, rest = path.partition("/")
    return Directory(lambda: {first: _directories(rest, children) if rest else Directory(children)})


def _children(parent: Parent) -> Iterable[Mdev]:
    return [mdev for mdev in parent.children.values() if mdev.visible]


def _device_path(mdev: Mdev) -> str:
    return f"/parents/{mdev.parent.name}/{mdev.name}"


def _line(text: str) -> bytes:
    return f"{text}\n".encode()


def _text(text: str) -> File:
    return File(lambda: _line(text))


def _value(data: bytes) -> str:
    try:
        return data.removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        raise MdevError(EINVAL, "not UTF-8") from error
