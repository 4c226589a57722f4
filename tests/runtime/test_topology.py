"""Topologies: the examples are valid, and what is wrong is named with file, line, field and expectation."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvnet.core.errors import ConfigError
from pvnet.net.link_address import parse_link
from pvnet.runtime.toml_lines import locate
from pvnet.runtime.topology import Topology, default_topology, json_schema
from pvnet.runtime.topology_file import (
    Problem,
    TopologyError,
    check_topology,
    load_topology,
    parse_topology,
    resolve_topology,
)
from pvnet.runtime.topology_net import check_port
from pvnet_services.broker_link import link_node

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy/topologies"


def problems(text: str) -> list[Problem]:
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, "f.toml")
    return caught.value.problems


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_example_is_valid(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(path.read_text())
    (tmp_path / "lab-ca.pem").write_text("")
    (tmp_path / "lab-password").write_text("secret\n")
    assert load_topology(copy).node_names[0] == "hypervisor"


def test_default_file_is_the_built_in_default() -> None:
    assert load_topology(EXAMPLES / "default.toml") == default_topology()


def test_example_with_every_setting_has_every_setting() -> None:
    def leaves(schema: dict, node: dict, path: str) -> set[str]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        for option in node.get("anyOf", []):
            if "$ref" in option:
                return leaves(schema, option, path)
        if "items" in node:
            return leaves(schema, node["items"], path)
        if "properties" not in node:
            return {path}
        return set().union(*(leaves(schema, n, f"{path}.{k}") for k, n in node["properties"].items()))

    text = (EXAMPLES / "every-setting.toml").read_text() + (EXAMPLES / "remote-broker.toml").read_text()
    schema = json_schema()
    names = {leaf.rsplit(".", 1)[1] for leaf in leaves(schema, schema, "")} - {"password"}
    assert {name for name in names if f"{name} =" not in text} == set()


def test_default_lab() -> None:
    topology = default_topology()
    assert topology.node_names == ["hypervisor", "bridge", "mdevs", "mp", "lpar1", "lpar2", "manager"]
    assert [topology.lpar_id(p.name) for p in topology.partitions] == [1, 2, 3]
    assert topology.management_partition is not None
    assert topology.management_partition.name == "mp"
    assert topology.vmc_of(topology.partition("lpar1")) is None
    vmc = topology.vmc_of(topology.partition("mp"))
    assert vmc is not None
    assert vmc.unit == 0x30000000
    with pytest.raises(ConfigError, match=r"no partition 'x' in lab lab; there are: mp, lpar1, lpar2"):
        topology.partition("x")


def test_numbers_are_assigned_around_the_given_ones() -> None:
    topology = parse_topology(
        '[[partition]]\nname="a"\n[[partition]]\nname="b"\nlpar_id=1\n[[partition]]\nname="c"\n[[partition]]\nname="d"'
    )
    assert {n: topology.lpar_id(n) for n in "abcd"} == {"a": 2, "b": 1, "c": 3, "d": 4}


def test_survives_json_so_that_nodes_can_be_given_it() -> None:
    topology = load_topology(EXAMPLES / "every-setting.toml")
    again = Topology.model_validate_json(topology.model_dump_json(by_alias=True))
    assert again == topology
    assert again.lpar_id("db") == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[lab\n", "f.toml:1: Expected ']' at the end of a table declaration; expected TOML"),
        ('[lab]\nname = "A"', "f.toml:2: lab.name: \"A\"; expected 1 to 32 of a-z 0-9 _ - (and not 'state')"),
        ('[lab]\n\nnane = "a"', "f.toml:3: lab.nane: unknown key; expected 'name' perhaps"),
        ("[hypervisor.vmc]\nmax_hmc = 3", "f.toml:2: hypervisor.vmc.max_hmc: unknown key; expected 'max_hmcs' perhaps"),
        (
            "zzz = 1",
            (
                "f.toml:1: zzz: unknown key; "
                "expected one of bridge, broker, crq, hypervisor, lab, manager, mdev_host, novalink, partition, "
                "switch, system"
            ),
        ),
        ('[[partition]]\nmemory = "1MiB"', "f.toml:1: partition[0].name: missing; expected a value"),
        (
            '[[partition]]\nname="a"\n[[partition]]\nname="b"\nmemory="16MB"',
            'f.toml:5: partition[1].memory: "16MB"; expected a size such as "16MiB" (B, KiB, MiB or GiB)',
        ),
        (
            '[[partition]]\nname="a"\nmemory=4097',
            "f.toml:3: partition[0].memory: 4097; expected 1028KiB to 64GiB, a multiple of 4096 bytes",
        ),
        ('[[partition]]\nname="a"\nmanagement="yes"', 'f.toml:3: partition[0].management: "yes"; expected a boolean'),
        (
            '[[partition]]\nname="a"\nmanagement=true\n[partition.vmc]\npool_size=8',
            "f.toml:5: partition[0].vmc.pool_size: 8; expected greater than or equal to 16",
        ),
        ('[broker]\nuse = "http://x"', 'f.toml:2: broker.use: "http://x"; expected auto, embedded, mosquitto, mqtt'),
        ("[lab]\nready_timeout_s = 0", "f.toml:2: lab.ready_timeout_s: 0; expected greater than 0"),
        ("manager = 3", "f.toml:1: manager: 3; expected a table"),
        ('[[crq]]\na = "x"\nb = "y:1"', 'f.toml:2: crq[0].a: "x"; expected "partition:unit" such as'),
    ],
)
def test_says_where_what_and_what_was_expected(text: str, says: str) -> None:
    first = str(problems(text)[0])
    assert first.startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[partition]]\nname="a"\n[[partition]]\nname="a"', "a name of its own for partition[1]: 'a' is already"),
        ('[[partition]]\nname="hypervisor"', "'hypervisor' is already the hypervisor"),
        ('[[partition]]\nname="broker"', "'broker' is already the broker"),
        ('[[partition]]\nname="a"\nmanagement=true\n[manager]\nname="a"', "a name of its own for the manager"),
        (
            '[[partition]]\nname="a"\nmanagement=true\n[[partition]]\nname="b"\nmanagement=true',
            "at most one management partition, not 2: a, b",
        ),
        ('[[partition]]\nname="a"\n[partition.vmc]', "management = true for 'a'"),
        ("[manager]", "a partition with management = true, because there is a [manager]"),
        ('[[partition]]\nname="a"\nlpar_id=3\n[[partition]]\nname="b"\nlpar_id=3', "lpar_id 3 is used twice"),
        ('[[crq]]\na="x:1"\nb="y:1"', "a partition of this lab in crq[0], not 'x'"),
        (
            '[[partition]]\nname="a"\nmanagement=true\n[[crq]]\na="a:0x30000000"\nb="a:2"',
            "a free unit address in crq[0]: a:0x30000000 is used already",
        ),
        ('[[crq]]\na="x:0"\nb="y:1"', '"partition:unit" such as "lpar1:0x30000010", not \'x:0\''),
        ('[broker]\nusername="u"', "ca_file, username and password only with use"),
        ('[broker]\nuse="mqtt://h"\nport=3', "the port inside the address"),
        (
            '[broker]\nuse="mqtt://h"\nusername="u"\npassword="p"\npassword_file="f"',
            "password or password_file, not both",
        ),
    ],
)
def test_refuses_contradictions(text: str, says: str) -> None:
    (problem,) = problems(text)
    assert says in problem.expected


def test_all_problems_are_listed_and_the_text_has_two_lines() -> None:
    with pytest.raises(TopologyError) as caught:
        parse_topology('[lab]\nname="A"\nx=1\ny=2', "f.toml")
    assert len(caught.value.problems) == 3
    assert str(caught.value).splitlines()[1] == "(2 more: pvnet check f.toml)"
    assert caught.value.exit_code == 2
    assert json.dumps([p.as_json() for p in caught.value.problems])


def test_a_password_does_not_show_in_errors_or_repr(tmp_path: Path) -> None:
    assert "hunter2" not in str(problems('[broker]\nuse="mqtt://h"\npassword=["hunter2"]')[0])
    path = tmp_path / "t.toml"
    path.write_text('[broker]\nuse="mqtt://h"\nusername="u"\npassword="hunter2"')
    topology = load_topology(path)
    assert topology.broker.password == "hunter2"
    assert "hunter2" not in repr(topology)


def test_files_are_relative_to_the_topology_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text('[broker]\nuse="mqtts://h"\nca_file="ca.pem"\nusername="u"\npassword_file="pw"')
    with pytest.raises(TopologyError, match=r"t.toml:5: broker.password_file: .*No such file"):
        load_topology(path)
    (tmp_path / "pw").write_text("one\ntwo\n")
    with pytest.raises(TopologyError, match=r"t.toml:1: broker: .*ca.pem: no such file"):
        load_topology(path)
    (tmp_path / "ca.pem").write_text("")
    broker = load_topology(path).broker
    assert (broker.ca_file, broker.password, broker.password_file) == (str(tmp_path / "ca.pem"), "one", None)


def test_files_that_a_start_needs_are_named_when_they_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(
        '[[partition]]\nname="mp"\nmanagement=true\n[partition.vmc]\nlisten=["tcp:h:1?ca=ca&cert=cert&key=key"]\n'
        '[[switch]]\nname="a"\nca_file="not-used"\n[[switch]]\nname="b"\nports=["tls:h:1"]\nca_file="b.pem"\n'
        '[novalink]\nsecrets="users.toml"\ncert_file="c.pem"\nkey_file="k\\u0000"\nca_file="."\n'
    )
    load_topology(path)
    with pytest.raises(TopologyError) as caught:
        check_topology(path)
    no, of = "No such file or directory; expected", "(PEM)"
    assert [str(problem).removeprefix(f"{path}:").replace(f"{tmp_path}", "D") for problem in caught.value.problems] == [
        f"5: partition[0].vmc.listen: D/ca: {no} the certificate of a CA {of}",
        f"5: partition[0].vmc.listen: D/cert: {no} a certificate {of}",
        f"5: partition[0].vmc.listen: D/key: {no} a key {of}",
        f"12: switch[1].ca_file: D/b.pem: {no} the certificate of a CA {of}",
        f"14: novalink.secrets: D/users.toml: {no} a file of users (pvnet novalink passwd FILE USER)",
        f"15: novalink.cert_file: D/c.pem: {no} a certificate {of}",
        f"16: novalink.key_file: D/k\0: embedded null byte; expected a key {of}",
        f"17: novalink.ca_file: D: Is a directory; expected the certificate of a CA {of}",
    ]
    with pytest.raises(TopologyError, match=r"t\.toml:5: partition\[0\].vmc.listen"):
        resolve_topology(path)
    for name in ("ca", "cert", "key", "b.pem", "users.toml", "c.pem", "k"):
        (tmp_path / name).touch()
    path.write_text(path.read_text().replace("\\u0000", "").replace('"."', '"ca"'))
    assert check_topology(path) == load_topology(path)


def test_backings_are_relative_to_the_topology(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    devices = "".join(f"[[partition.scm]]\n{line}\n" for line in ('backing="a/x"', 'backing="/b"', ""))
    path.write_text(f'[[partition]]\nname="p"\n{devices}')
    found = [device.backing for device in load_topology(path).partition("p").scm]
    assert found == [str(tmp_path / "a/x"), "/b", None]


def test_what_programs_outside_need_is_relative_to_the_topology(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(
        '[[partition]]\nname="mp"\nmanagement=true\n[partition.vmc]\nlisten=["unix:run/dev", "unix:/abs", '
        '"tcp:127.0.0.1:0", "tcp:h:1?ca=ca.pem&cert=/c.pem&key=k/k.pem"]\n'
        '[novalink]\nsecrets="users.toml"\ntls="/tls"\ncert_file="c.pem"\nkey_file="../k.pem"\nca_file="ca.pem"\n'
    )
    topology = load_topology(path)
    vmc, novalink = topology.partition("mp").vmc, topology.novalink
    assert vmc is not None
    assert vmc.listen == [
        f"unix:{tmp_path}/run/dev",
        "unix:/abs",
        "tcp:127.0.0.1:0",
        f"tcp:h:1?ca={tmp_path}/ca.pem&cert=/c.pem&key={tmp_path}/k/k.pem",
    ]
    assert novalink is not None
    files = [novalink.secrets, novalink.tls, novalink.cert_file, novalink.key_file, novalink.ca_file]
    assert files == [
        str(tmp_path / "users.toml"),
        "/tls",
        str(tmp_path / "c.pem"),
        str(tmp_path.parent / "k.pem"),
        str(tmp_path / "ca.pem"),
    ]


def test_the_system_has_what_its_partitions_need_unless_it_says_how_much() -> None:
    assert (Topology().system_memory, Topology().system_processors) == (64 << 30, 16)
    many = "".join(f'[[partition]]\nname="p{n}"\nmemory="1GiB"\n[partition.processors]\nunits=0.5\n' for n in range(80))
    topology = parse_topology(many)
    assert (topology.system_memory, topology.system_processors) == (80 << 30, 40)
    (problem,) = problems('[system]\nmemory="16MiB"\n' + many)
    assert "system.memory of at least 85899345920 bytes" in problem.expected
    (problem,) = problems("[system]\nprocessors=39\n" + many)
    assert "system.processors of at least 40" in problem.expected
    off = many.replace('"1GiB"', '"1GiB"\nautostart=false')
    assert parse_topology("[system]\nprocessors=1\n" + off).system_processors == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file or directory; expected a topology file"),
        (b"\xff\xfe", ":1: byte 0xff; expected UTF-8 text"),
        (b"#" * (1 << 20) + b"##", "more than 1 MiB"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "t.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TopologyError) as caught:
        load_topology(path)
    assert says in str(caught.value)


@given(st.text(max_size=200) | st.sampled_from(["[broker]\nuse='mqtt://['", "[[lab]]", "partition = 3", "crq = [[]]"]))
def test_any_text_gives_a_topology_or_a_problem(text: str) -> None:
    result: object
    try:
        result = parse_topology(text)
    except TopologyError as error:
        result = error.problems
    assert result


def test_lines_are_found_in_the_forms_that_people_write() -> None:
    text = 'a.b = 1\n[t]\ns = """\n[t.x]\n"""\n"k y" = 2\n[[l]]\nv=1\n[[l]]\n  [l.sub]\nw = 2 # c\n[[l.deep]]\nz=1'
    assert locate(text, ("a", "b")) == 1
    assert locate(text, ("t", "k y")) == 6
    assert locate(text, ("t", "x", "y")) == 2
    assert locate(text, ("l", 0, "v")) == 8
    assert locate(text, ("l", 1, "sub", "w")) == 11
    assert locate(text, ("l", 1, "deep", 0, "z")) == 13
    assert locate(text, ("nowhere",)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[hypervisor.vmc]\nmax_mtu = 64\n", "hypervisor.vmc.max_mtu of at least 1024"),
        ('[hypervisor]\nprofile = "qemu"\n', "a [manager] needs H_COPY_RDMA"),
    ],
)
def test_a_manager_needs_a_channel_that_can_carry_its_commands(text: str, expected: str) -> None:
    rest = '[manager]\n[[partition]]\nname = "mp"\nmanagement = true\n'
    with pytest.raises(TopologyError, match=re.escape(expected)):
        parse_topology(text + rest)
    parse_topology(text + rest.replace("[manager]\n", ""))


SWITCH = '[[switch]]\nname = "net0"\n'


def venets(first: str, second: str) -> str:
    """Two partitions with a venet each at switch net0."""
    parts = (
        f'[[partition]]\nname = "{name}"\n[[partition.venet]]\n{rest}\n' for name, rest in (("a", first), ("b", second))
    )
    return SWITCH + "".join(parts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SWITCH + 'ports = ["tap:x", "tap:x"]', "each port once: 'tap:x' is a port of switch 'net0' already"),
        (
            SWITCH + 'ports = ["tap:x"]\n[[switch]]\nname = "net1"\nports = ["tap:x"]',
            "each port once: 'tap:x' is a port of",
        ),
        (
            SWITCH + 'ports = ["pcapng:a"]\n[[switch]]\nname = "net1"\nports = ["pcapng:./a"]',
            "each port once: 'pcapng:./a'",
        ),
        (SWITCH + 'ports = ["replay:a", "replay:a"]', "each port once"),
        (SWITCH + 'ports = ["broker:two"]\n[[switch]]\nname = "net1"\nports = ["broker:two"]', "each port once"),
        (SWITCH + 'ports = ["broker:lab"]', "another lab than 'lab' itself in port 'broker:lab' of switch 'net0'"),
        (SWITCH + 'ports = ["broker-listen:lab"]', "another lab than 'lab' itself"),
        (SWITCH + 'ports = ["tls-listen:h:1"]', "a cert_file = ..., because there is a tls-listen port"),
        (SWITCH + 'ports = ["tcp:h:0"]', "a TCP port from 1 to 65535, not 0"),
        (SWITCH + 'ports = ["tcp-listen:h:65536"]', "a TCP port from 0 to 65535, not 65536"),
        (SWITCH + f'ports = ["tcp:h:{"9" * 5000}"]', "a TCP port from 1 to 65535, not 99999999999999999999"),
        (SWITCH + 'ports = ["tls:h:http"]', "tls:HOST:PORT"),
        (SWITCH + 'ports = ["tcp:::1:99"]', "tcp:HOST:PORT"),
        (SWITCH + 'ports = ["tcp:99"]', "tcp:HOST:PORT"),
        (
            venets('address = "10.0.0.1/24"', 'address = "10.0.0.1/16"'),
            "an IPv4 address of its own for venet[0] of 'b': 10.0.0.1",
        ),
        (venets('address = "10.0.0.0/24"', ""), "10.0.0.0 is the network address of 10.0.0.0/24"),
        (venets('address = "10.0.0.1/24"', 'address = "10.0.0.255/24"'), "10.0.0.255 is the broadcast address of"),
        (
            SWITCH + 'ports = ["tap:x@y"]\n' + venets('tap = "x"\nnetns = "y"', "").removeprefix(SWITCH),
            "a TAP of its own",
        ),
        ('[[partition]]\nname = "link-a"', "a name without 'link-' in front for partition[0], not 'link-a'"),
    ],
)
def test_refuses_a_network_that_could_not_start(text: str, says: str) -> None:
    (problem,) = problems(text)
    assert says in problem.expected


@pytest.mark.parametrize(
    "text",
    [
        SWITCH + 'ports = ["tap:x", "tap:x@y", "tcp:[::1]:99", "tcp-listen:[::]:0", "tls:h:1", "broker:two"]',
        SWITCH + 'ports = ["tcp:h:1", "replay:f"]\n[[switch]]\nname = "net1"\nports = ["tcp:h:1", "replay:f"]',
        SWITCH + 'cert_file = "c"\nports = ["tls-listen:h:1"]',
        venets('address = "10.0.0.1/30"', 'address = "10.0.0.2/30"'),
        venets('address = "10.0.0.1/24"', 'address = "10.0.0.1/24"\nswitch = "net1"') + '[[switch]]\nname = "net1"',
        '[[partition]]\nname = "link"',
    ],
)
def test_a_network_that_can_start_is_taken(text: str) -> None:
    assert parse_topology(text).partitions is not None


def test_the_bridge_of_another_lab_has_a_name_that_no_partition_may_have() -> None:
    for lab in ("two", "x" * 32):
        (problem,) = problems(f'[[partition]]\nname = "{link_node(lab)}"')
        assert "a name without 'link-' in front" in problem.expected


def test_another_name_on_the_command_line_must_not_make_a_link_of_the_lab_to_itself(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(SWITCH + 'ports = ["broker:two"]')
    with pytest.raises(ConfigError, match="--lab two: expected another lab than 'two' itself in port 'broker:two'"):
        resolve_topology(file, lab="two")
    assert resolve_topology(file, lab="three").lab.name == "three"


@given(st.sampled_from(["tcp", "tls", "tcp-listen", "tls-listen"]), st.text("h:[]019²x", max_size=9))
def test_a_port_that_the_topology_takes_is_one_that_the_bridge_takes(kind: str, rest: str) -> None:
    text = f"{kind}:{rest}"
    try:
        parse_link(text)
    except ConfigError:
        with pytest.raises(ValueError):
            check_port(text)
    else:
        assert check_port(text) == text


@pytest.mark.parametrize(("settings", "least"), [("", "1028KiB"), ("management = true", "1544KiB")])
def test_the_least_memory_that_the_document_names_is_the_least(settings: str, least: str) -> None:
    text = f'[[partition]]\nname = "a"\n{settings}\nmemory = '
    size = int(least.removesuffix("KiB")) * 1024
    assert parse_topology(text + str(size)).partitions[0].memory == size
    assert problems(text + str(size - 4096))
    assert least in (EXAMPLES.parents[1] / "docs/topology.md").read_text()


@pytest.mark.parametrize("lab", ["a", "lab", "novalink", "x0", "x1", "x2", "x3"])
def test_made_uuids_are_such_as_powervm_makes(lab: str) -> None:
    topology = default_topology(lab)
    uuids = [topology.partition_uuid(p) for p in topology.partitions]
    assert all(int(uuid[0], 16) < 8 for uuid in uuids)
    assert len(set(uuids)) == len(uuids)
    assert uuids == [default_topology(lab).partition_uuid(p) for p in topology.partitions]
