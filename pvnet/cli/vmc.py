"""``pvnet vmc``: a session of one's own over ``/dev/ibmvmc`` of a running lab."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pvnet.cli.run import JsonOption, LabOption, TimeoutOption, run, say, say_json
from pvnet.client import Lab, VmcDevice
from pvnet.client.device import MTU_MAX
from pvnet.core.errors import ConfigError, DeadlineError, DeviceError, PvnetError, RefusedError
from pvnet.vmc.context import VmcState
from pvnet.vmc.router import decode_router

app = typer.Typer(no_args_is_help=True, help="Speak over the virtual management channel of a running lab.")

HmcIdOption = Annotated[str, typer.Option("--hmc-id", help="Id of the connection, up to 32 bytes.")]


@contextlib.contextmanager
def _busy_explained() -> Iterator[None]:
    """Say in words why no session could be opened."""
    try:
        yield
    except DeviceError as error:
        if error.errno != errno.EBUSY or not str(error).startswith("SETHMCID"):
            raise
        raise RefusedError("all HMC connections of the management partition are in use: close one first") from None


@app.command()
def echo(
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000_000, help="How many echoes.")] = 10,
    size: Annotated[int, typer.Option("--size", "-s", min=0, max=4064, help="Bytes of data in each.")] = 64,
    hmc_id: HmcIdOption = "pvnet-echo",
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Open a router session, echo messages one after the other, close; every byte is compared."""
    with _busy_explained():
        result = run(_echo(lab, hmc_id, count, size, timeout))
    if as_json:
        say_json(result)
    else:
        say(
            f"{result['count']} echoes of {size} bytes: {result['lost']} lost, {result['duplicated']} duplicated, "
            f"{result['wrong']} wrong; {result['per_s']:.0f}/s, "
            f"p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms"
        )
    if result["lost"] or result["wrong"] or result["duplicated"]:
        raise typer.Exit(1)


async def _echo(lab_name: str | None, hmc_id: str, count: int, size: int, timeout: float) -> dict[str, float]:
    times: list[float] = []
    wrong = 0
    async with Lab.join(lab_name) as lab, lab.vmc_session(hmc_id, timeout=timeout) as session:
        await session.router_open()
        began = time.perf_counter()
        for i in range(count):
            data = (i.to_bytes(4, "big") * (size // 4 + 1))[:size]
            start = time.perf_counter()
            wrong += (await session.echo(data)) != data
            times.append(time.perf_counter() - start)
        seconds = time.perf_counter() - began
        await session.router_close()
        duplicated = session.counters["late_reply"]
    times.sort()
    return {
        "count": count,
        "bytes": size,
        "lost": count - len(times),
        "duplicated": duplicated,
        "wrong": wrong,
        "seconds": seconds,
        "per_s": count / seconds,
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[min(len(times) - 1, len(times) * 99 // 100)] * 1000,
    }


@app.command()
def send(
    message: Annotated[str, typer.Argument(help="Text, hex:BYTES, @FILE, or - for standard input.")],
    reply: Annotated[bool, typer.Option("--reply/--no-reply", help="Wait for one message in return.")] = True,
    hmc_id: HmcIdOption = "pvnet-send",
    lab: LabOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Send one message as it is, and print what comes back."""
    data = read_message(message, MTU_MAX)
    if not data:
        raise ConfigError("the message is empty: expected at least 1 byte")
    if len(data) > MTU_MAX:
        raise ConfigError(f"the message has more than {MTU_MAX} bytes, which no channel takes")
    with _busy_explained():
        answer = run(_send(lab, hmc_id, data, reply=reply, timeout=timeout))
    if as_json:
        say_json({"sent": data.hex(), "received": None if answer is None else answer.hex()})
        return
    say(f"sent {len(data)} bytes")
    if answer is not None:
        say(f"received {len(answer)} bytes: {describe_message(answer)}")


def read_message(text: str, most: int | None = None) -> bytes:
    """Bytes that a user means by ``text``; ConfigError says what was expected.

    Of a file that is longer than ``most`` only one byte more is read: it may be endless.
    """
    count = -1 if most is None else most + 1
    if text == "-":
        return sys.stdin.buffer.read(count)
    if text.startswith("@"):
        try:
            with Path(text[1:]).open("rb") as file:
                return file.read(count)
        except OSError as error:
            raise ConfigError(f"message {text}: {error.strerror}") from None
    if text.startswith("hex:"):
        try:
            return bytes.fromhex(text[4:])
        except ValueError:
            raise ConfigError(f"message {text[:40]!r}: expected pairs of hex digits after 'hex:'") from None
    return os.fsencode(text)  # the bytes that were typed, UTF-8 or not


def describe_message(data: bytes) -> str:
    """One line: a router message by its fields, printable text as text, anything else in hex."""
    try:
        message = decode_router(data)
    except PvnetError:
        text = data.decode("ascii", "replace")
        return repr(text) if text.isprintable() and text else data.hex(" ")
    return (
        f"router target {message.target:#06x} opcode {message.opcode:#06x} rc {message.rc:#06x}, "
        f"{len(message.data)} bytes of data"
    )


async def _send(lab_name: str | None, hmc_id: str, data: bytes, *, reply: bool, timeout: float) -> bytes | None:
    async with Lab.join(lab_name) as lab, lab.vmc_device(timeout=timeout) as device:
        session = lab.vmc_session(hmc_id, timeout=timeout)
        session.device = device
        await session.connect()
        if len(data) > session.mtu:
            raise ConfigError(f"the message has {len(data)} bytes, the channel takes at most {session.mtu}")
        await session.send(data)
        if not reply:
            return None
        try:
            return await device.read(timeout=timeout)
        except DeviceError as error:
            if error.errno == errno.EINTR:
                raise DeadlineError(f"no message came back within {timeout:g} s") from None
            raise


@app.command()
def query(lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """Ask the driver for its state (ioctl QUERY)."""
    answer = run(_query(lab, timeout))
    state = VmcState(answer[1]).name.lower()
    if as_json:
        say_json({"have_vmc": answer[0], "state": state, "vmc_drc_index": answer[2]})
    else:
        say(f"have_vmc {int(answer[0])}, state {state}, DRC index {answer[2]:#010x}")


@app.command()
def request(lab: LabOption = None, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """Ask the hypervisor for a VMC (ioctl REQUESTVMC, H_REQUEST_VMC); prints its DRC index."""
    drc_index = run(_request(lab, timeout))
    if as_json:
        say_json({"vmc_drc_index": drc_index})
    else:
        say(f"DRC index {drc_index:#010x}")


async def _request(lab_name: str | None, timeout: float) -> int:
    async with Lab.join(lab_name) as lab, lab.vmc_device(timeout=timeout) as device:
        return await device.request_vmc()


async def _query(lab_name: str | None, timeout: float) -> tuple[bool, int, int]:
    async with Lab.join(lab_name) as lab:
        device: VmcDevice
        async with lab.vmc_device(timeout=timeout) as device:
            found = await device.query()
            return found.have_vmc, found.state, found.vmc_drc_index
