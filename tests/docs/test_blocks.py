"""Every block of the documents runs: commands in real labs, programs, topologies.

A ``console`` block has commands (``$ ...``) and what they print; ``...`` stands for anything, runs of spaces count as
one, ``[exit code N]`` ends a command that fails.  A block that starts a lab has a runtime directory of its own; the
others find one running lab.  What a block needs stands behind ``console``: ``root``, a program, the package of
``examples/vbus_device`` without or with its driver, or that of ``examples/mdev_device``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pvnet.runtime.topology_file import TopologyError, load_topology

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXIT_CODE = re.compile(r"\[exit code (\d+)\]")
INSTEAD = {"make demo": "pvnet demo"}
"""Commands that would set up an environment which the tests have already."""
THERMOMETER = ROOT / "examples" / "vbus_device"
METRONOME = ROOT / "examples" / "mdev_device"
PROGRAMS = {"router_echo.py": "b'hello, hypervisor'\n", "ring_pair.py": "1000 b'MESSAGE 0' b'MESSAGE 999'\n"}
"""The examples that documents show, and what they print."""
NOVALINK = Path("examples/novalink.pvnet.toml")
YOUR_TESTS = ("pytest your/tests", "bash -c 'test -s $REQUESTS_CA_BUNDLE'")
"""A step of a job with tests of somebody else, and what stands for them."""
NAMESPACES = ("pvnet-left", "pvnet-right")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language with everything behind it, its lines."""

    where: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            block = Block(f"{document.name}:{line}", match[1].strip(), match[2])
            if not languages or block.language in languages:
                found.append(block)
    return found


def commands(block: Block) -> list[tuple[str, str, int]]:
    """(command, expected output, exit code) of a console block."""
    found = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        code = EXIT_CODE.search(expected)
        found.append((command, EXIT_CODE.sub("", expected), int(code[1]) if code else 0))
    return found


def agrees(expected: str, got: str) -> bool:
    """Whether what was printed has the shape of what the document shows."""

    def spaces(text: str) -> str:
        return re.sub(r"[ \t]+", " ", "\n".join(line.strip() for line in text.strip().splitlines()))

    parts = [re.escape(part.strip(" ")) for part in spaces(expected).split("...")]
    return re.fullmatch(r"[ ]?.*?[ ]?".join(parts), spaces(got), re.DOTALL) is not None


class Shell:
    """Runs the commands of a document in a runtime directory of its own."""

    def __init__(self, runtime: Path, **environment: str) -> None:
        runtime.mkdir(mode=0o700)
        self.runtime = runtime
        path = os.pathsep.join([str(BIN), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        state = str(runtime.parent / "state")
        own = {"XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": state, "PATH": path}
        self.environment = {**os.environ, **own, **environment}
        for name in ("PVNET_LAB", "PVNET_DEBUG", "PVNET_LOG", "CI"):
            self.environment.pop(name, None)

    def __call__(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=100,
        )

    def close(self) -> None:
        """End what is still running, and see that nothing is left."""
        for lock in self.runtime.glob("pvnet/*.lock"):
            self("pvnet", "down", "--lab", lock.stem)
        assert list(self.runtime.rglob("*")) == []


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path / "runtime")
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def shell_with_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("docs") / "runtime")
    started = shell("pvnet", "up", "--detach")
    assert started.returncode == 0, started.stdout
    yield shell
    shell.close()


def at_free_ports(command: str, directory: Path) -> str:
    """The command with a copy of the example whose ports are free: tests run beside each other."""
    if str(NOVALINK) not in command:
        return command
    copy = directory / NOVALINK.name
    text = re.sub(r"^\[novalink\].*$", "[novalink]\nport = 0\nhttp_port = 0", (ROOT / NOVALINK).read_text(), flags=re.M)
    copy.write_text(text)
    return command.replace(str(NOVALINK), str(copy))


def check(block: Block, run: Shell) -> None:
    """Run the commands of a block and compare."""
    assert commands(block), "a console block without a command"
    for command, expected, code in commands(block):
        done = run("bash", "-c", at_free_ports(INSTEAD.get(command, command), run.runtime.parent))
        assert done.returncode == code, f"{command}\n{done.stdout}"
        assert agrees(expected, done.stdout), f"{command}\nshown:\n{expected}\nprinted:\n{done.stdout}"


def check_with_lab(block: Block, request: pytest.FixtureRequest) -> None:
    needs_no_lab = "pvnet up" in block.text or "make demo" in block.text
    check(block, request.getfixturevalue("shell" if needs_no_lab else "shell_with_lab"))


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.where)
def test_console_block(block: Block, request: pytest.FixtureRequest) -> None:
    check_with_lab(block, request)


@pytest.mark.slow
@pytest.mark.needs("tshark")
@pytest.mark.parametrize("block", blocks("console tshark"), ids=lambda block: block.where)
def test_console_block_with_tshark(block: Block, request: pytest.FixtureRequest) -> None:
    check_with_lab(block, request)


@pytest.mark.slow
@pytest.mark.needs("gcc")
@pytest.mark.parametrize("block", blocks("console gcc"), ids=lambda block: block.where)
def test_console_block_with_a_compiler(block: Block, request: pytest.FixtureRequest) -> None:
    check_with_lab(block, request)


@pytest.mark.parametrize("block", blocks("c"), ids=lambda block: block.where)
def test_c_block_is_an_example(block: Block) -> None:
    assert block.text in [path.read_text() for path in (ROOT / "examples").glob("*.c")]


@pytest.mark.slow
@pytest.mark.needs("net-admin", "ip", "ping")
@pytest.mark.parametrize("block", blocks("console root"), ids=lambda block: block.where)
def test_console_block_as_root(block: Block, shell: Shell) -> None:
    try:
        check(block, shell)
    finally:
        for name in NAMESPACES:
            if (Path("/run/netns") / name).exists():
                shell("ip", "netns", "delete", name)


def installer(site: Path, package: Path) -> Callable[..., None]:
    """Make a folder in which the package of an example is as if it were installed, with some of its entry points."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    installed = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )

    def install(*groups: str) -> None:
        text = "".join(
            f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in project["entry-points"][group].items())
            for group in groups
        )
        (installed / "entry_points.txt").write_text(text)

    return install


@pytest.mark.slow
def test_console_blocks_of_the_thermometer(tmp_path: Path) -> None:
    """The example's package as it is installed, whose driver has the device; then without the driver."""
    site = tmp_path / "site"
    install = installer(site, THERMOMETER)
    (whole,), (by_hand,) = blocks("console thermometer"), blocks("console thermometer-by-hand")
    run = Shell(tmp_path / "runtime", PYTHONPATH=os.pathsep.join([str(site), str(THERMOMETER)]))
    try:
        install("pvnet.devices", "pvnet.drivers")
        check(whole, run)
        install("pvnet.devices")
        check(by_hand, run)
    finally:
        run.close()


@pytest.mark.slow
def test_console_block_of_the_metronome(tmp_path: Path) -> None:
    site = tmp_path / "site"
    installer(site, METRONOME)("pvnet.mdev")
    (block,) = blocks("console metronome")
    run = Shell(tmp_path / "runtime", PYTHONPATH=os.pathsep.join([str(site), str(METRONOME)]))
    try:
        check(block, run)
    finally:
        run.close()


@pytest.mark.parametrize(
    ("group", "package"), [("pvnet.mdev", METRONOME), ("pvnet.mdev_drivers", ROOT)], ids=["mdev", "mdev_drivers"]
)
def test_entry_points_of_mediated_devices_are_as_shown(group: str, package: Path) -> None:
    (shown,) = (block for block in blocks("text") if block.text.startswith(f'[project.entry-points."{group}"]'))
    assert shown.text in (package / "pyproject.toml").read_text()


def test_the_thermometer_package_says_what_the_document_shows() -> None:
    """By hand it is used without its driver: the two lines that the document wants out are the driver's."""
    (shown,) = (block for block in blocks("text") if block.text.startswith('[project.entry-points."pvnet.devices"]'))
    assert shown.text in (THERMOMETER / "pyproject.toml").read_text()
    assert shown.text.splitlines()[-2:] == [
        '[project.entry-points."pvnet.drivers"]',
        'example-thermometer = "pvnet_thermometer:ThermometerDriver"',
    ]


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.where)
def test_python_block_is_an_example_that_prints_what_it_should(block: Block, shell: Shell) -> None:
    example = next(path for path in (ROOT / "examples").glob("*.py") if path.read_text() == block.text)
    done = shell(sys.executable, str(example))
    assert done.returncode == 0, done.stdout
    assert done.stdout == PROGRAMS[example.name]


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.where)
def test_topology_block(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "topology.toml"
    file.write_text(block.text)
    assert load_topology(file).partitions


@pytest.mark.parametrize("block", blocks("toml expect-error"), ids=lambda block: block.where)
def test_wrong_topology_block_gives_the_error_that_is_shown(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "topology.toml"
    file.write_text(block.text)
    with pytest.raises(TopologyError) as caught:
        load_topology(file)
    document = next(d for d in DOCUMENTS if d.name == block.where.partition(":")[0])
    for problem in caught.value.problems:
        assert f"`{str(problem).replace(str(file), 'FILE')}`" in document.read_text()


def test_the_built_in_lab_is_the_one_that_is_shown(tmp_path: Path) -> None:
    shown = next(block for block in blocks("toml") if block.where.startswith("topology.md"))
    file = tmp_path / "topology.toml"
    file.write_text(shown.text)
    assert load_topology(file) == load_topology(ROOT / "deploy" / "topologies" / "default.toml")


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.where)
def test_steps_of_a_job(block: Block, shell: Shell, tmp_path: Path) -> None:
    install, *steps = re.findall(r"^ *- run: (.*)$", block.text, re.MULTILINE)
    assert install.startswith("pip install")
    shell.environment["CI"] = "true"
    for step in steps:
        command = at_free_ports(step.replace(*YOUR_TESTS), tmp_path)
        done = shell("bash", "-c", f"cd {tmp_path} && {command}")
        assert done.returncode == 0, f"{step}\n{done.stdout}"
    endpoint = json.loads((tmp_path / "lab.json").read_text())["endpoints"]["novalink"]
    assert set(endpoint) == {"url", "http", "ca", "user", "password_file"}


def test_no_block_is_of_a_kind_that_nobody_checks() -> None:
    kinds = {block.language for block in blocks()}
    console = {"console", "console root", "console tshark", "console gcc", "console metronome"}
    console |= {"console thermometer", "console thermometer-by-hand"}
    elsewhere = {"yaml ansible"}  # tests/interop/novalink
    assert kinds == console | elsewhere | {"c", "python", "toml", "toml expect-error", "text", "mermaid", "yaml"}


def test_the_network_document_shows_the_example_topology() -> None:
    (shown,) = (block for block in blocks("toml") if block.where.startswith("network.md"))
    assert shown.text == (ROOT / "examples" / "two_taps.toml").read_text()


def test_the_mdev_document_shows_the_example_topology() -> None:
    (shown,) = (block for block in blocks("toml") if block.where.startswith("mdev.md"))
    assert shown.text == (ROOT / "examples" / "two_mdev_hosts.toml").read_text()


def test_what_a_wildcard_means() -> None:
    assert agrees("a ... c\n...\nend", "a   b   c\nx\ny\nend\n")
    assert agrees("p50 ... ms", "p50 1.2 ms")
    assert agrees("PID ...", "PID  RESTARTS")
    assert not agrees("a ... c", "a b d")
    assert not agrees("one\ntwo", "one\nthree\ntwo")


def test_make_demo_is_pvnet_demo() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo: .*\n\t@\$\(BIN\)/pvnet demo", makefile, re.MULTILINE)
