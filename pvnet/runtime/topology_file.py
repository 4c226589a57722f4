"""Read a topology file and say exactly what is wrong with it.

A :class:`TopologyError` lists every problem found; its text is the first of them in one line, because that is what a
command prints, and ``pvnet check`` prints them all.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pvnet.capture.snoop import parse_snoop
from pvnet.core.errors import ConfigError
from pvnet.core.names import check_name
from pvnet.runtime.device_address import DeviceAddress
from pvnet.runtime.layout import memory_needed
from pvnet.runtime.toml_lines import locate
from pvnet.runtime.topology import BrokerConfig, ScmConfig, Topology, default_topology
from pvnet.runtime.topology_net_check import check_other_labs
from pvnet.transport.uri import BrokerUrl

_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a topology file."""

    file: str
    line: int | None
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        """Return the one line for a person."""
        where = f"{self.file}:{self.line}" if self.line is not None else self.file
        field = f" {self.field}:" if self.field else ""
        found = f" {self.found};" if self.found else ""
        return f"{where}:{field}{found} expected {self.expected}"

    def as_json(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return asdict(self)


class TopologyError(ConfigError):
    """A topology file is wrong; ``problems`` has them all."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        more = f"\n({len(problems) - 1} more: pvnet check {problems[0].file})" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")


def load_topology(path: Path) -> Topology:
    """Read and check a topology file; relative paths in it are relative to its folder.

    :raises TopologyError: the file cannot be read, is not TOML, or is not a topology.
    """
    return _load(path)[0]


def _load(path: Path) -> tuple[Topology, str]:
    """Return the topology and its text."""
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise TopologyError([Problem(name, None, "", error.strerror or str(error), "a topology file")]) from None
    if len(raw) > _MAX_BYTES:
        raise TopologyError([Problem(name, None, "", "more than 1 MiB", "a topology file")])
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TopologyError([Problem(name, line, "", f"byte {raw[error.start]:#04x}", "UTF-8 text")]) from None
    topology = parse_topology(text, name)
    return _with_files_found(topology, text, path), text


def check_topology(path: Path) -> Topology:
    """Read a topology that is to be started: the files that it names and does not make are there and can be read.

    :raises TopologyError: it is wrong, or a file is missing.
    """
    topology, text = _load(path)
    problems = []
    for field, file, expected in _needed_files(topology):
        try:
            with Path(file).open("rb") as content:
                content.read(1)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
            found = f"{file}: {getattr(error, 'strerror', None) or error}"
            problems.append(Problem(str(path), locate(text, field), _dotted(field), found, expected))
    if problems:
        raise TopologyError(problems)
    return topology


def _needed_files(topology: Topology) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """Give field, file and what it has to be, of what a start reads; a broker's files were read with the topology."""
    pem = {"cert_file": "a certificate (PEM)", "key_file": "a key (PEM)", "ca_file": "the certificate of a CA (PEM)"}
    for number, partition in enumerate(topology.partitions):
        for uri in partition.vmc.listen if partition.vmc is not None else ():
            address = DeviceAddress.parse(uri)
            for key, own in (("ca_file", address.ca), ("cert_file", address.cert), ("key_file", address.key)):
                if own is not None:
                    yield ("partition", number, "vmc", "listen"), str(own), pem[key]
    for number, switch in enumerate(topology.switches):
        if any(port.startswith(("tls:", "tls-listen:")) for port in switch.ports):
            for key, expected in pem.items():
                if (file := getattr(switch, key)) is not None:
                    yield ("switch", number, key), file, expected
    if topology.novalink is not None:
        users = {"secrets": "a file of users (pvnet novalink passwd FILE USER)"}
        for key, expected in {**users, **pem}.items():
            if (file := getattr(topology.novalink, key)) is not None:
                yield ("novalink", key), file, expected


def parse_topology(text: str, file: str = "<topology>") -> Topology:
    """Read a topology from TOML text; ``file`` is its name in errors.

    :raises TopologyError: the text is not TOML or not a topology.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"^(.*) \(at line (\d+), column \d+\)$", str(error))
        found, line = (match[1], int(match[2])) if match else (str(error), None)
        raise TopologyError([Problem(file, line, "", found, "TOML")]) from None
    except RecursionError:  # tomllib calls itself for every bracket
        raise TopologyError([Problem(file, None, "", "values nested too deeply", "a topology")]) from None
    try:
        topology = Topology.model_validate(tree)
    except ValidationError as error:
        problems = [_problem(details, text, file) for details in error.errors(include_url=False)]
        raise TopologyError(problems) from None
    problems = []
    for number, partition in enumerate(topology.partitions):
        needed = memory_needed(topology, partition.name)
        if needed > partition.memory:
            field = ("partition", number, "memory")
            expected = f"at least {needed} for its queues and buffers (or fewer, smaller ones)"
            problems.append(Problem(file, locate(text, field), _dotted(field), f"{partition.memory} bytes", expected))
    if problems:
        raise TopologyError(problems)
    return topology


def resolve_topology(file: Path | None, *, lab: str | None = None, broker: str | None = None) -> Topology:
    """Return the topology of a command line: a file or the built-in one, with its lab name and broker replaced.

    :raises ConfigError: the file is wrong (:class:`TopologyError`), or the name or broker is.
    """
    topology = check_topology(file) if file is not None else default_topology()
    if lab is not None:
        name = check_name(lab, "lab")
        try:
            check_other_labs(name, topology.switches)
        except ValueError as error:
            raise ConfigError(f"--lab {name}: expected {error}") from None
        topology = topology.model_copy(update={"lab": topology.lab.model_copy(update={"name": name})})
    if broker is not None:
        try:
            config = BrokerConfig(use=broker)
        except ValidationError:
            expected = "expected auto, embedded, mosquitto, mqtt://... or mqtts://..."
            raise ConfigError(f"--broker {broker!r}: {expected}") from None
        if "://" in broker:
            BrokerUrl.parse(broker)
        topology = topology.model_copy(update={"broker": config})
    return topology


def _problem(details: ErrorDetails, text: str, file: str) -> Problem:
    path = tuple(part for part in details["loc"] if isinstance(part, int) or not part.startswith("function-"))
    line = locate(text, path)
    field = _dotted(path)
    match details["type"]:
        case "extra_forbidden":
            found, expected = "unknown key", _known_keys(path)
        case "missing":
            found, expected = "missing", "a value"
        case "value_error":  # raised by our own validators: the message is what was expected
            cause = details.get("ctx", {}).get("error")
            found, expected = _shown(details["input"]), str(cause)
        case "string_pattern_mismatch" if path == ("broker", "use"):
            found, expected = _shown(details["input"]), "auto, embedded, mosquitto, mqtt://... or mqtts://..."
        case "string_pattern_mismatch" if path[:1] == ("crq",):
            found, expected = _shown(details["input"]), '"partition:unit" such as "lpar1:0x30000010"'
        case "model_type":
            found, expected = _shown(details["input"]), "a table"
        case _:
            found = _shown(details["input"])
            expected = (
                details["msg"].replace("Input should be ", "").replace("a valid ", "a ").replace("dictionary", "table")
            )
    return Problem(file, line, field, found if path[-1:] != ("password",) else "a password", expected)


def _dotted(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(value: object) -> str:
    """Return a short form of what stands there; whole tables are not repeated."""
    if isinstance(value, dict | BaseModel):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(path: tuple[str | int, ...]) -> str:
    """Say which key was probably meant, or all that there are."""
    keys = _keys_at(path[:-1])
    near = difflib.get_close_matches(str(path[-1]), keys, n=1, cutoff=0.6)
    return f"{near[0]!r} perhaps" if near else "one of " + ", ".join(keys)


def _keys_at(path: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = Topology
    for part in path:
        if isinstance(part, int):
            continue
        for name, field in model.model_fields.items():
            if (field.alias or name) == part:
                model = _model_in(field.annotation) or model
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the model in ``Model``, ``Model | None`` or ``list[Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _with_backings_found(topology: Topology, path: Path) -> Topology:
    """Make the backing files of SCM devices absolute: they lie beside the topology, wherever the lab is started."""

    def found(device: ScmConfig) -> ScmConfig:
        if device.backing is None:
            return device
        return device.model_copy(update={"backing": os.path.normpath(path.parent.absolute() / device.backing)})

    partitions = [p.model_copy(update={"scm": [found(device) for device in p.scm]}) for p in topology.partitions]
    return topology.model_copy(update={"partitions": partitions})


def _with_switch_files_found(topology: Topology, path: Path) -> Topology:
    """Make the files of switches absolute: captures and certificates."""
    folder = path.parent.absolute()
    switches = []
    for switch in topology.switches:
        ports = [
            f"{kind}:{os.path.normpath(folder / rest)}" if kind in {"pcapng", "replay"} else f"{kind}:{rest}"
            for kind, _, rest in (port.partition(":") for port in switch.ports)
        ]
        files = {
            key: os.path.normpath(folder / value)
            for key in ("ca_file", "cert_file", "key_file")
            if (value := getattr(switch, key)) is not None
        }
        switches.append(switch.model_copy(update={"ports": ports, **files}))
    return topology.model_copy(update={"switches": switches})


def _with_mdev_files_found(topology: Topology, path: Path) -> Topology:
    """Make disk images and vfio-user sockets absolute."""
    folder = path.parent.absolute()

    def found(value: str) -> str:
        return os.path.normpath(folder / value)

    hosts = []
    for host in topology.mdev_hosts:
        parents = [
            p.model_copy(update={"attributes": {k: found(v) if k == "image" else v for k, v in p.attributes.items()}})
            for p in host.parents
        ]
        mdevs = [
            m if m.vfio_user is None else m.model_copy(update={"vfio_user": found(m.vfio_user)}) for m in host.mdevs
        ]
        hosts.append(host.model_copy(update={"parents": parents, "mdevs": mdevs}))
    partitions = [p.model_copy(update={"vfio_user": [found(s) for s in p.vfio_user]}) for p in topology.partitions]
    return topology.model_copy(update={"mdev_hosts": hosts, "partitions": partitions})


def _with_clients_found(topology: Topology, path: Path) -> Topology:
    """Make absolute what programs outside need: the files of the NovaLink service, the sockets of the device."""
    folder = path.parent.absolute()
    update: dict[str, object] = {}
    if topology.novalink is not None:
        files = {
            key: os.path.normpath(folder / value)
            for key in ("secrets", "tls", "cert_file", "key_file", "ca_file")
            if (value := getattr(topology.novalink, key)) is not None
        }
        update["novalink"] = topology.novalink.model_copy(update=files)
    partitions = []
    for partition in topology.partitions:
        if partition.vmc is not None and partition.vmc.listen:
            listen = [str(DeviceAddress.parse(uri).absolute(folder)) for uri in partition.vmc.listen]
            vmc = partition.vmc.model_copy(update={"listen": listen})
            partitions.append(partition.model_copy(update={"vmc": vmc}))
        else:
            partitions.append(partition)
    return topology.model_copy(update={**update, "partitions": partitions})


def _with_snoop_found(topology: Topology, path: Path) -> Topology:
    """Make the file that the nodes record into absolute."""
    lab = topology.lab
    if lab.snoop is None:
        return topology
    snoop = str(parse_snoop(lab.snoop).absolute(path.parent))
    return topology.model_copy(update={"lab": lab.model_copy(update={"snoop": snoop})})


def _with_files_found(topology: Topology, text: str, path: Path) -> Topology:
    """Make the paths absolute and read the password, once, where the error can name the line."""
    topology = _with_mdev_files_found(_with_switch_files_found(_with_backings_found(topology, path), path), path)
    topology = _with_clients_found(_with_snoop_found(topology, path), path)
    broker = topology.broker
    if "://" not in broker.use:
        return topology
    password, ca_file = broker.password, broker.ca_file
    if ca_file is not None:
        ca_file = os.path.normpath(path.parent.absolute() / ca_file)
    if broker.password_file is not None:
        secret = path.parent / broker.password_file
        try:
            password = secret.read_text().split("\n", 1)[0]
        except OSError as error:
            found = f"{secret}: {error.strerror}"
            line = locate(text, ("broker", "password_file"))
            raise TopologyError([Problem(str(path), line, "broker.password_file", found, "a readable file")]) from None
    try:
        BrokerUrl.parse(broker.use, ca_file=ca_file, username=broker.username, password=password)
    except ConfigError as error:
        found, _, expected = str(error).partition("; ")
        raise TopologyError(
            [
                Problem(
                    str(path),
                    locate(text, ("broker",)),
                    "broker",
                    found,
                    expected.removeprefix("expected ") or "a usable broker",
                )
            ]
        ) from None
    resolved = broker.model_copy(update={"ca_file": ca_file, "password": password, "password_file": None})
    return topology.model_copy(update={"broker": resolved})
