"""A Linux guest in QEMU drives the serial card with its own driver for such cards."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import re
from pathlib import Path

import pytest
from interop import copier
from interop.cards import Card, CardLab, card_lab, served
from interop.qemu_guest import Guest, Parts, PciFunction, booted

pytestmark = pytest.mark.slow
VENDOR, DEVICE, CLASS = 0x4348, 0x3253, 0x070002
MANY, FEW = 600, 50
IO = 0x100
"""Flag of a PCI region that is I/O ports."""


def numbers(first: int, count: int) -> bytes:
    """What ``seq`` writes in the guest."""
    return b"".join(b"%d\n" % n for n in range(first, first + count))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def the_card(guest: Guest) -> PciFunction:
    (function,) = [f for f in await guest.pci() if (f.vendor, f.device) == (VENDOR, DEVICE)]
    return function


async def ttys(guest: Guest) -> list[str]:
    """The terminals that the guest's kernel has made of the card's ports, in their order."""
    function = await the_card(guest)
    shown = await guest.run("cat /proc/tty/driver/serial")
    names = []
    for first, _, _ in function.regions[:2]:
        found = re.search(rf"(?m)^(\d+): uart:16550A port:{first:08X} irq:{function.irq} ", shown)
        assert found, shown
        names.append(f"ttyS{found[1]}")
    return names


async def counters(guest: Guest, tty: str) -> tuple[int, int, str]:
    """Bytes out and in, and what else the driver has counted: overruns and the like."""
    shown = await guest.run("cat /proc/tty/driver/serial")
    found = re.search(rf"(?m)^{tty.removeprefix('ttyS')}: .* tx:(\d+) rx:(\d+)(.*)$", shown)
    assert found, shown
    return int(found[1]), int(found[2]), " ".join(word for word in found[3].split() if ":" in word)


async def interrupts(guest: Guest, tty: str) -> int:
    """How often the card has interrupted the guest's processor; it has to be open."""
    for line in (await guest.run("cat /proc/interrupts")).splitlines():
        if tty in line.replace(",", " ").split():
            return int(line.split()[1])
    raise AssertionError(f"{tty} has no interrupt")


async def open_ports(guest: Guest) -> list[str]:
    """Open the ports and leave them open, as lines that alter nothing: what comes in before that is lost."""
    names = await ttys(guest)
    for tty in names:
        await guest.run(f"sleep 100000 <>/dev/{tty} >&0 2>&0 &")
        await guest.run(f"stty -F /dev/{tty} 115200 raw -echo -crtscts clocal")
    return names


async def exchange(guest: Guest, card: Card, names: list[str], count: int = FEW) -> None:
    """Text in both directions of both ports at the same time; what arrives is what was sent, by its SHA-256."""
    commands, wanted, lengths = [], [], []
    for port, (tty, (_, writer)) in enumerate(zip(names, card.ports, strict=True)):
        first = 10_000 * (2 * port + 1), 10_000 * (2 * port + 2)
        inwards, outwards = numbers(first[0], count), numbers(first[1], count)
        writer.write(inwards)
        wanted.append((sha256(inwards), sha256(outwards)))
        lengths.append(len(outwards))
        commands.append(f"seq {first[1]} {first[1] + count - 1} | tee /dev/{tty} | sha256sum >/tmp/{tty}.sent &")
        commands.append(f"head -c {len(inwards)} </dev/{tty} | sha256sum >/tmp/{tty}.came &")
    receiving = asyncio.gather(
        *(reader.readexactly(length) for (reader, _), length in zip(card.ports, lengths, strict=True))
    )
    await guest.run(" ".join([*commands, "wait"]))
    received = await asyncio.wait_for(receiving, 30)
    for tty, (came, sent), data in zip(names, wanted, received, strict=True):
        sums = (await guest.run(f"cat /tmp/{tty}.came /tmp/{tty}.sent")).split()[::2]
        assert sums == [came, sent]
        assert sha256(data) == sent


async def let_go(guest: Guest, names: list[str], again: str) -> None:
    """Close the ports, then run a command that takes the card from its driver and gives it back."""
    await guest.run("killall sleep")
    await guest.run(f"while grep -qE '{'|'.join(names)}' /proc/interrupts; do :; done")  # until they are closed
    await guest.run(again)


async def test_both_ports_carry_text_both_ways_and_the_driver_comes_and_goes(parts: Parts, tmp_path: Path) -> None:
    """The card is made and attached by commands; one of its ports is a pseudo terminal."""
    card = Card("c0ffee00-0000-4000-8000-00000000000a", tmp_path / "card.sock")
    async with card_lab(tmp_path) as lab:
        ports = ("port0=pty", f"port1=unix-listen:{tmp_path / 'port1'}")
        await lab.pvnet("mdev", "create", "mtty", "mtty-2", "--uuid", card.uuid, *ports)
        await lab.connect(card)
        await lab.pvnet("attach", f"vfio-user:{card.socket}?mdev={card.uuid}")
        async with booted(parts, tmp_path, [card.socket]) as guest:
            function = await the_card(guest)
            assert function.class_code == CLASS
            for first, last, flags in function.regions[:2]:
                assert last - first == 7
                assert flags & IO
            assert not any(any(region) for region in function.regions[2:])
            assert await ttys(guest) == ["ttyS4", "ttyS5"]
            names = await open_ports(guest)
            before = await interrupts(guest, names[0])
            await exchange(guest, card, names, MANY)
            assert await interrupts(guest, names[0]) > before
            sent = len(numbers(10_000, MANY))
            assert [await counters(guest, tty) for tty in names] == [(sent, sent, "")] * 2, "no overrun, nothing lost"
            shown = json.loads(await lab.pvnet("mdev", "show", card.uuid, "--json"))
            traffic = [shown["attributes"][f"traffic{port}"] for port in range(2)]
            assert traffic == [f"sent {sent} received {sent} lost 0"] * 2
            assert shown["user"] == "a vfio-user client"

            # Its interrupt is taken away and given back, then its registers move to other addresses.
            drivers, devices = "/sys/bus/pci/drivers/serial", "/sys/bus/pci/devices"
            await let_go(guest, names, f"for f in unbind bind; do echo {function.address} >{drivers}/$f; done")
            names = await open_ports(guest)
            await exchange(guest, card, names)
            await let_go(guest, names, f"echo 1 >{devices}/{function.address}/remove; echo 1 >/sys/bus/pci/rescan")
            assert (await the_card(guest)).regions[0] != function.regions[0]
            await exchange(guest, card, await open_ports(guest))
            assert await guest.warnings() == []
            await guest.power_off()
            assert guest.complaints() == []
        await lab.unused(card)
        await lab.pvnet("attach", "--remove", f"vfio-user:{card.socket}?mdev={card.uuid}")
        assert not card.socket.exists()
        card.plugs.close()
        await lab.pvnet("mdev", "remove", card.uuid)


PLACES = (0x1000, 0x3000)
"""In the first MiB of memory, of which this kernel uses nothing."""


async def copy(guest: Guest, lab: CardLab, card: Card) -> int:
    """Have the card copy a page of the guest's memory, then to where there is none; returns the messages of the first.

    These are what our server received: the write that starts it, and the hypervisor's answers.
    """
    (function,) = [f for f in await guest.pci() if (f.vendor, f.device) == (copier.VENDOR, copier.DEVICE)]
    registers = function.regions[0][0]
    source, destination = PLACES
    sysfs = f"/sys/bus/pci/devices/{function.address}"
    await guest.run(f"echo 1 >{sysfs}/enable")
    # Its command register: let it answer, and be the master of its bus.
    await guest.run(rf"printf '\006' | dd of={sysfs}/config bs=1 seek=4 count=1 conv=notrunc 2>/dev/null")

    async def start(where: int, number: int) -> tuple[int, int]:
        """The errno of the copy, and how many messages it took."""
        await guest.run(f"devmem {registers + copier.SOURCE} 64 {source}")
        await guest.run(f"devmem {registers + copier.DESTINATION} 64 {where}")
        before = int((await lab.socket(card))["messages"])
        await guest.run(f"devmem {registers + copier.LENGTH} 64 4096")
        looks, done, error = 0, 0, 0
        while done < number:
            looks += 1
            error, done = divmod(int(await guest.run(f"devmem {registers + copier.STATUS} 64"), 16), 1 << 32)
        return error, int((await lab.socket(card))["messages"]) - before - looks

    words = {0: 0x0123456789ABCDEF, 2040: 0x13579BDF, 4088: 0xFEDCBA9876543210}
    for at, word in words.items():
        await guest.run(f"devmem {source + at} 64 {word:#x}; devmem {destination + at} 64 0")
    error, messages = await start(destination, 1)
    assert error == 0
    for at, word in words.items():
        assert int(await guest.run(f"devmem {destination + at} 64"), 16) == word
    assert (await start(1 << 40, 2))[0] == errno.EFAULT
    return messages


@pytest.mark.timeout(240)
async def test_cards_outlive_reboots_and_hypervisors(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second hypervisor shares no memory: cards reach the guest's by messages only."""
    monkeypatch.setenv("PYTHONPATH", copier.install(tmp_path / "site"))
    async with served(tmp_path, "serial", "copier") as (lab, [card, engine]):
        sockets = [card.socket, engine.socket]
        async with booted(parts, tmp_path, sockets) as guest:
            await exchange(guest, card, await open_ports(guest))
            await guest.reboot()
            names = await open_ports(guest)
            await exchange(guest, card, names)
            assert await copy(guest, lab, engine) == 1
            assert await guest.warnings() == []
            before = await lab.sent(card, 0)
            await guest.run(f"seq 10000 >/dev/{names[0]} &")
            heard = await card.ports[0][0].readexactly(4)
            await guest.kill()
            assert guest.complaints() == []
        await lab.unused(card)
        await lab.unused(engine)
        heard += await card.ports[0][0].readexactly(await lab.sent(card, 0) - before - len(heard))
        assert numbers(1, 10000).startswith(heard), "nothing but what it had still sent"
        async with booted(parts, tmp_path, sockets, shared=False) as guest:
            await exchange(guest, card, await open_ports(guest))
            assert await copy(guest, lab, engine) == 3
            assert await guest.warnings() == []
            assert guest.complaints() == []
