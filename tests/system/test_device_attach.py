"""The device of a lab of real processes: ``[partition.vmc] listen``, ``pvnet attach unix:``, ``tcp:``, TLS, kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from behaviour_worlds import eventually

from pvnet.client.device_socket import DeviceSocket
from pvnet.client.session import VmcSession
from pvnet.core.errors import PvnetError, UnreachableError

ROOT = Path(__file__).resolve().parents[2]
PVNET = str(Path(sys.executable).parent / "pvnet")


class Cli:
    """Runs ``pvnet`` with a runtime directory of its own, beside the topology."""

    def __init__(self, runtime: Path, folder: Path) -> None:
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        self.folder = folder
        for name in ("PVNET_LAB", "PVNET_DEBUG", "PVNET_LOG"):
            self.environment.pop(name, None)

    def pvnet(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [PVNET, *words], env=self.environment, cwd=self.folder, capture_output=True, check=False, timeout=100
        )
        out, error = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in out + error
        assert done.returncode == code, (words, out + error)
        return error if code else out

    def ps(self) -> dict[str, object]:
        shown: dict[str, object] = json.loads(self.pvnet("ps", "--json"))
        return shown


TOPOLOGY = """
[lab]
name = "device"
[broker]
use = "embedded"
[[partition]]
name = "mp"
management = true
restart = { policy = "always", max_restarts = 100, window_s = 1 }
[partition.vmc]
listen = ["unix:vmc.sock"]
[[partition]]
name = "guest"
venet = [{}]
[[switch]]
name = "net0"
[bridge]
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    runtime, folder = tmp_path_factory.mktemp("runtime"), tmp_path_factory.mktemp("lab")
    runtime.chmod(0o700)
    (folder / "lab.toml").write_text(TOPOLOGY)
    made = Cli(runtime, folder)
    made.pvnet("up", "-f", "lab.toml", "--detach")
    yield made
    made.pvnet("down")
    left = [file.name for file in runtime.rglob("*") if "pvnet-unix" not in file.parts]  # there kill -9 leaves some
    assert left in ([], ["pvnet-unix"])
    assert not list(folder.glob("*.sock")), "sockets go with the lab"


async def echoes(uri: str) -> None:
    async with VmcSession(DeviceSocket(uri, timeout=30), "attached", timeout=30) as session:
        await session.router_open()
        assert await session.echo(b"hello") == b"hello"


async def test_the_topologys_socket_serves_and_comes_back_after_kill_9(cli: Cli) -> None:
    uri = f"unix:{cli.folder / 'vmc.sock'}"
    await echoes(uri)
    shown = cli.ps()
    assert shown["endpoints"] == {"device": [uri]}
    nodes = shown["nodes"]
    assert isinstance(nodes, list)
    device = await DeviceSocket(uri).open()
    os.kill(next(node["pid"] for node in nodes if node["name"] == "mp"), signal.SIGKILL)
    with pytest.raises(UnreachableError):
        await device.read()
    device.drop()

    async def is_back() -> bool:
        try:
            await echoes(uri)
        except PvnetError:
            return False
        return True

    await eventually(is_back)


@pytest.mark.needs("gcc")
def test_programs_in_c_through_the_preloaded_library(cli: Cli) -> None:
    for source, output, options in (
        ("deploy/preload/ibmvmc.c", "shim.so", ["-fPIC", "-shared", "-U_FORTIFY_SOURCE"]),
        ("tests/c/ibmvmc_session.c", "session", []),
    ):
        made = ["gcc", "-std=c11", "-O2", *options, "-o", cli.folder / output, ROOT / source, "-ldl", "-pthread"]
        subprocess.run(made, check=True)
    uri = f"unix:{cli.folder / 'vmc.sock'}"
    environment = {**os.environ, "PVNET_IBMVMC": uri, "LD_PRELOAD": str(cli.folder / "shim.so")}
    for scenario in ("session", "negative", "fork", "dup", "threads", "poll"):
        command = [cli.folder / "session", scenario]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b""), scenario


async def test_sockets_come_and_go(cli: Cli) -> None:
    said = cli.pvnet("attach", "unix:other.sock")
    uri = f"unix:{cli.folder / 'other.sock'}"
    assert said == f"{uri}: /dev/ibmvmc of mp\n"
    await echoes(uri)
    assert "is there already" in cli.pvnet("attach", "unix:other.sock", code=1)
    said = cli.pvnet("attach", "tcp:127.0.0.1:0")
    tcp = said.partition(": /dev")[0]
    await echoes(tcp)
    assert cli.ps()["endpoints"] == {"device": [f"unix:{cli.folder / 'vmc.sock'}", uri, tcp]}
    for each in (uri, tcp):
        assert cli.pvnet("attach", "--remove", each) == f"{each}: removed\n"
        with pytest.raises(UnreachableError):
            await echoes(each)
    assert "is not there" in cli.pvnet("attach", "--remove", tcp, code=1)
    assert "certificates beyond loopback" in cli.pvnet("attach", "tcp:0.0.0.0:0", code=2)
    assert "expected unix:PATH" in cli.pvnet("attach", "tcp:127.0.0.1", code=2)


async def test_beyond_loopback_both_ends_show_certificates(cli: Cli) -> None:
    ours, others = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(cli.folder / "ca.pem")
    for name, authority in (("server", ours), ("client", ours), ("stranger", others)):
        made = authority.issue_cert("127.0.0.1")
        made.private_key_pem.write_to_path(cli.folder / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(cli.folder / f"{name}.pem")

    def files(name: str) -> str:
        paths = {"ca": "ca.pem", "cert": f"{name}.pem", "key": f"{name}.key"}
        return "?" + "&".join(f"{option}={quote(str(cli.folder / file))}" for option, file in paths.items())

    at = cli.pvnet("attach", "tcp:0.0.0.0:0?ca=ca.pem&cert=server.pem&key=server.key").partition(": /dev")[0]
    reached = at.replace("0.0.0.0", "127.0.0.1")
    await echoes(reached + files("client"))
    for wrong in (reached, reached + files("stranger")):
        with pytest.raises(UnreachableError):
            await echoes(wrong)
    assert "TLS file" in cli.pvnet("attach", "tcp:0.0.0.0:0?ca=ca.pem&cert=none.pem&key=server.key", code=1)
    cli.pvnet("attach", "--remove", at + files("server"))
