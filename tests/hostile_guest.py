"""A partition that means harm, in a process of its own that a test tells by lines of JSON what to do.

``python -m hostile_guest BROKER LAB NAME``: each line is ``{"attack": ..., "seed": ..., "seconds": ..., ...}``; the
answer is one line, ``{"done": attack, ...counts}``, or ``{"error": text}``.  Every line is carried out by a new process
(a fork of this one, which has everything imported), that is: by a new incarnation of the partition, and ``die_at`` has
it killed by SIGKILL in the middle.  What it does is honest up to the point where it is not: endpoint, unix path, arena
and bridge are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import random
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from hostile_descriptors import flat_nonsense, sg_nonsense
from hostile_process import die, serve
from hostile_raw import CALL_S, Raw, files, make_bell, make_file

from pvnet.core.errors import PvnetError
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.ring.layout import Descriptor
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.memfd import create_sealed
from pvnet.runtime.service import make_port
from pvnet.runtime.topology import BRIDGE
from pvnet.vbus.arena import DEFAULT_BASE
from pvnet.vbus.bridge_io import BridgeCall
from pvnet.vbus.north_io import NorthOutput
from pvnet.vbus.packet import packet_of
from pvnet.vbus.venet_layout import MAX_SG_BYTES, VENET_TYPE, VenetFunction
from pvnet.vbus.venet_north import VenetNorth, VenetNorthConfig
from pvnet_services.vbus_attachment import Attachment
from pvnet_services.vbus_host import ARENA_LABEL, NUMBER, SIGNAL_LABEL

PATIENCE_S = 30.0
EVERYBODY = b"\xff" * 6
WORD = 0xFFFFFFFF


class Doomed(Attachment):
    """An attachment that ends by SIGKILL at its ``die_at``-th bridge call."""

    die_at = 0
    bridge_calls = 0

    def _carry_out(self, output: NorthOutput) -> None:
        if isinstance(output, BridgeCall):
            self.bridge_calls += 1
            if self.bridge_calls == self.die_at:
                die()
        super()._carry_out(output)


class Guest:
    """One life of the partition."""

    def __init__(self, endpoint: Endpoint, orders: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.orders = orders
        self.random = random.Random(int(orders.get("seed", 1)))
        self.seconds = float(orders.get("seconds", 1.0))
        self.counts: Counter[str] = Counter()
        self.attachment: Doomed | None = None
        self.venet = VenetNorth()
        self._number = 0

    # --- the honest part ---------------------------------------------------------------------------------------------

    async def up(self, *, wait: bool = True, **config: Any) -> VenetNorth:
        """Attach with a new arena and bring the venet up."""
        self.leave()
        self._number += 1
        options = {"rx_ring": 32, "tx_ring": 32, "event_ring": 16, "pages": 4, "page_bytes": 4096, **config}
        venet = self.venet = VenetNorth(VenetNorthConfig(**options))
        size = -(-(venet.config.arena_bytes + (1 << 18)) // 4096) * 4096
        attachment = self.attachment = Doomed(self.endpoint, size, {VENET_TYPE: venet}, shared=True, ended=lambda: None)
        attachment.die_at = int(self.orders.get("die_at", 0))
        if await attachment.attach(self._number):
            raise PvnetError("attach was refused")
        self.counts["attached"] += 1
        if wait:
            async with asyncio.timeout(PATIENCE_S):
                while not venet.link:  # noqa: ASYNC110 - the machines have no event for it
                    await asyncio.sleep(0.001)
            self.counts["links"] += 1
        return venet

    def leave(self) -> None:
        """Forget the attachment; the host is not told."""
        attachment, self.attachment = self.attachment, None
        if attachment is not None:
            attachment.end()

    @property
    def here(self) -> Doomed:
        assert self.attachment is not None
        return self.attachment

    @property
    def view(self) -> memoryview:
        return self.here.arena.view

    def pieces(self) -> list[tuple[int, int]]:
        """Offset and bytes of everything that the partition has given out of its arena: rings, pools, buffers."""
        used = self.here.machine.allocator._used
        return [(start - DEFAULT_BASE, end - start) for start, end in used.items()]

    def small_pieces(self) -> list[tuple[int, int]]:
        """Rings, pools and parameters: where a byte matters."""
        return [(start, size) for start, size in self.pieces() if size <= 16384]

    def broadcast(self) -> None:
        """Ask everybody for guest a's address, which brings frames into our receive ring."""
        mac = self.venet.mac
        question = struct.pack(
            ">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, bytes([10, 77, 0, 9]), bytes(6), bytes([10, 77, 0, 1])
        )
        frame = EVERYBODY + mac + b"\x08\x06" + question
        with contextlib.suppress(PvnetError):
            self.venet.send([packet_of(frame.ljust(60, b"\0"))])
            self.here.run()

    def ring_everything(self) -> None:
        attachment = self.here
        assert attachment._kick is not None
        attachment._kick.ring()
        for pair in list(attachment._signals.values()):
            pair[0].ring()
        self.counts["rings"] += 1

    def until(self, seconds: float) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            yield

    # --- attacks -----------------------------------------------------------------------------------------------------

    async def scribble(self) -> None:
        """Random bytes over shared words while doorbells ring, from a thread, at the rings' own pace and faster."""
        for _ in self.until(self.seconds):
            try:
                await self.up(
                    ring_2026=self.random.random() < 0.5,
                    sg=self.random.choice([0, 0x2F]),
                    l4ro=self.random.choice([0, 0x0F]),
                )
            except (TimeoutError, PvnetError):
                continue
            small, everything = self.small_pieces(), self.pieces()
            style = self.random.choice(["all", "pieces", "bytes", "flips", "words"])
            self.counts[style] += 1
            stop = threading.Event()
            thread = threading.Thread(target=self._scribbler, args=(style, small, everything, stop))
            thread.start()
            try:
                for step, _ in enumerate(self.until(self.random.uniform(0.02, 0.3))):
                    self.ring_everything()
                    if step % 4 == 0:
                        self.broadcast()
                    if step % 16 == 0:
                        self.doorbells(8)
                    await asyncio.sleep(0)
            finally:
                stop.set()
                thread.join()

    def _scribbler(
        self, style: str, small: list[tuple[int, int]], everything: list[tuple[int, int]], stop: threading.Event
    ) -> None:
        rng, view = random.Random(self.random.random()), self.view
        while not stop.is_set():
            match style:
                case "all":
                    start = rng.randrange(len(view) - 4096)
                    view[start : start + 4096] = rng.randbytes(4096)
                case "pieces":
                    start, size = rng.choice(everything)
                    view[start : start + size] = rng.randbytes(size)
                case "bytes":
                    start, size = rng.choice(small)
                    view[start + rng.randrange(size)] = rng.randrange(256)
                case "flips":
                    start, size = rng.choice(small)
                    view[start + rng.randrange(size)] ^= 1 << rng.randrange(8)
                case _:
                    start, size = rng.choice(small)
                    at = start + rng.randrange(max(1, size - 8)) // 4 * 4
                    view[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2, 0x7FFFFFFF, 0x80000000, WORD]))
            self.counts["scribbles"] += 1

    async def nonsense(self) -> None:
        """Descriptors of every kind of nonsense through rings that are otherwise in order, one after the other."""
        await self.up(sg=0, l4ro=0)
        for number, (ptr, length) in enumerate(flat_nonsense(len(self.view))):
            venet = await self._ready(number, sg=0, l4ro=0)
            ring = venet._parts.transmit._ring  # type: ignore[union-attr]
            if ring.room():
                ring.push([Descriptor(number, ptr & (1 << 64) - 1, length & WORD)])
                self.counts["flat"] += 1
            await self._look()
        for number, sg in enumerate(sg_nonsense(self.random)):
            venet = await self._ready(number)
            transmit = venet._parts.transmit  # type: ignore[union-attr]
            assert transmit.descriptors is not None
            raw = sg[:MAX_SG_BYTES]
            transmit.descriptors[: len(raw)] = raw
            if transmit._ring.room():
                transmit._ring.push([Descriptor(0, 0, min(max(len(raw), 48), MAX_SG_BYTES))])
                self.counts["sg"] += 1
            await self._look()
        for number, (ptr, length) in enumerate([(0, 0), (5, 320), (1 << 63, WORD), (320 * 31 + 1, 320), (0, 31)] * 2):
            venet = await self._ready(number)
            ring = venet._parts.transmit._ring  # type: ignore[union-attr]
            if ring.room():
                ring.push([Descriptor(0, ptr, length)])
            await self._look()
        await self._receive_nonsense()
        await self._head_nonsense()

    async def _ready(self, number: int, **config: Any) -> VenetNorth:
        """The venet, attached anew when what was done before has cost it its connection."""
        parts = self.venet._parts
        if number == 0 or self.attachment is None or not self.venet.link or parts is None or parts.dead:
            return await self.up(**config)
        return self.venet

    async def _look(self) -> None:
        parts = self.venet._parts
        if parts is not None and parts.transmit.signal is not None:
            parts.transmit.signal.inject()
            self.here.run()
        self.ring_everything()
        for _ in range(3):
            await asyncio.sleep(0.001)
        with contextlib.suppress(PvnetError):
            parts = self.venet._parts
            if parts is not None and not parts.dead:
                parts.transmit._ring.reclaim(32)

    async def _receive_nonsense(self) -> None:
        """Buffers lent for frames that are none, while frames come."""
        places = [0, DEFAULT_BASE - 1, DEFAULT_BASE + (1 << 30), 1 << 63, (1 << 64) - 8, (1 << 64) - 1]
        for number, ptr in enumerate(places):
            for length in (0, 13, 1514, 1 << 31, WORD):
                await self.up(sg=0, l4ro=0)
                parts = self.venet._parts
                assert parts is not None
                parts.receive._empty = [Descriptor(i, ptr, length) for i in range(parts.receive._ring.count)]
                for _ in range(40):  # more than the ring has
                    self.broadcast()
                await asyncio.sleep(0.01)
                self.counts["receive"] += 1
            if number % 2:
                await self.up()
                parts = self.venet._parts
                assert parts is not None
                assert parts.receive._descriptors is not None
                parts.receive._descriptors[:] = self.random.randbytes(len(parts.receive._descriptors))
                for _ in range(40):
                    self.broadcast()
                await asyncio.sleep(0.01)

    async def _head_nonsense(self) -> None:
        """Index words, counts, magic and ``sown`` bytes of the rings, each set to nonsense."""
        for value in (0, 1, 31, 32, 33, 0x7FFFFFFF, 0x80000000, WORD):
            await self.up(sg=0, l4ro=0)
            for start, size in self.small_pieces():
                if (size - 56) % 32 == 0 or size % 64 == 0:
                    for at in range(start, start + min(size, 56) - 3, 4):
                        self.view[at : at + 4] = struct.pack("<I", value)
            self.broadcast()
            self.ring_everything()
            await asyncio.sleep(0.005)
            self.counts["heads"] += 1
        for flip in range(24):
            await self.up(sg=0, l4ro=0)
            for start, size in self.small_pieces():
                if size > 56 and (size - 56) % 32 == 0:
                    self.view[start + 56 + 32 * flip % (size - 56) + 21] ^= 1
                    self.view[start + 56 + 32 * flip % (size - 56) + 20] ^= 1
            self.ring_everything()
            self.broadcast()
            await asyncio.sleep(0.005)
            self.counts["flips"] += 1

    async def flood(self) -> None:
        """Ring as fast as two threads can, and as fast as messages go."""
        await self.up()
        stop = threading.Event()
        attachment = self.here
        assert attachment._kick is not None
        bells = [attachment._kick, *(pair[0] for pair in attachment._signals.values())]

        def ring() -> None:
            while not stop.is_set():
                for bell in bells:
                    bell.ring()

        threads = [threading.Thread(target=ring) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in self.until(self.seconds):
                self.doorbells(64)
                self.broadcast()
                await asyncio.sleep(0.001)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        await self.up()

    def doorbells(self, count: int) -> None:
        """Writes to doorbell registers that are there, and to some that are not."""
        rng = self.random
        for _ in range(count):
            envelope = Envelope()
            body = envelope.vbus_doorbell
            body.offset = rng.choice([0, 0, 4, 8, 8, 8, 1, 2, 12, 28, 0x7FFFFFFF, WORD])
            body.value = rng.choice([0, 1, 2, 3, 4, 5, 100, 0x7FFFFFFF, 0x80000000, WORD])
            self.endpoint.post(BRIDGE, envelope)
            self.counts["doorbells"] += 1

    async def raw(self) -> Raw:
        """Attach with a small arena, and do the rest by hand."""
        self.leave()
        self._number += 1
        attachment = self.attachment = Doomed(self.endpoint, 1 << 16, {}, shared=True, ended=lambda: None)
        assert attachment._kick is not None
        assert attachment._irq is not None
        fds = [attachment._fd, attachment._kick.fd, attachment._irq.fd]
        assert self.endpoint.share(BRIDGE, ARENA_LABEL, NUMBER.pack(self._number), fds)
        assert await self._attach_result(DEFAULT_BASE, 1 << 16, self._number) == 0
        return Raw(self.endpoint, self.view)

    async def hoard(self) -> None:
        """Open and close the device with signals for ever, and never give an event slot back."""
        for _ in range(int(self.orders.get("rounds", 2))):
            raw = await self.raw()
            assert await raw.negotiate() == 0
            assert await raw.register(events=1) == 0
            results: Counter[int] = Counter()
            for number in range(int(self.orders.get("opens", 400))):
                if await raw.open() < 0:
                    break
                results[await raw.ring(region=0, cookie=number * 2 + 1)] += 1
                results[await raw.ring(region=1, cookie=number * 2 + 2)] += 1
                await raw.close()
            self.counts["closed"] += sum(results.values())
            self.counts["no_space"] += sum(count for result, count in results.items() if result < 0)

    async def twins(self) -> None:
        """Two signals with one cookie, of two devices: one has its eventfds closed while the other is rung."""
        for _ in range(5):
            raw = await self.raw()
            assert await raw.negotiate() == 0
            assert await raw.register(events=1) == 0
            assert await raw.open(0) == 0
            first = raw.handle
            assert await raw.ring(region=0, cookie=5) > 0
            assert await raw.ring(region=1, cookie=6) > 0
            with files(1) as one, files(1) as other:
                self.endpoint.share(BRIDGE, SIGNAL_LABEL, NUMBER.pack(5), one + other)
            assert await raw.call(VenetFunction.LINKUP) == 0
            raw.enable(region=0)
            assert await raw.open(1) == 0
            assert await raw.ring(region=0, cookie=5, place=2) > 0
            assert await raw.close() == 0
            raw.handle = first
            await asyncio.sleep(0.5)  # the others' traffic comes, broadcasts too
            self.counts["twins"] += 1

    async def messages(self) -> None:
        """Messages that are none, before the attach and after."""
        rng = self.random
        envelope = Envelope()
        await self._nothing(b"\x01" * 16)
        self.doorbells(50)
        for label in (ARENA_LABEL, SIGNAL_LABEL, "no-such-label", "memory"):
            self._shares(label)
        sizes = [0, 1, 4095, (1 << 25) + 4096, 1 << 30, (1 << 30) + 1, 1 << 40, (1 << 64) - 1]
        bases = [0, 1, 0x10001, 1 << 62, (1 << 64) - 4096, DEFAULT_BASE]
        for size in sizes:
            for base in bases:
                for shared in (0, 77):
                    if size in {1 << 30} and not shared:
                        continue  # "mirror" below
                    await self._attach_result(base, size, shared)
        await self._shared_files()
        # A real attachment, and nonsense on it.
        await self.up()
        for call in (b"", b"x", bytes(15), bytes(17), bytes(65536), b"\xff" * 16, rng.randbytes(16)):
            await self._nothing(call)
        for _ in range(300):
            await self._nothing(
                struct.pack(
                    "<IIQ",
                    rng.randrange(7),
                    rng.choice([0, 8, 16, 24, 32, 48, 144, WORD]),
                    rng.choice([0, DEFAULT_BASE, DEFAULT_BASE + len(self.view) - 8, (1 << 64) - 8]),
                )
            )
        for cookie in (0, 1, 99, (1 << 64) - 1, *list(self.here._signals)):
            self._signal_shares(cookie)
        for address in (0, DEFAULT_BASE - 1, DEFAULT_BASE + len(self.view), (1 << 64) - 1):
            envelope = Envelope()
            envelope.vbus_update.writes.add(address=address, data=b"abc")
            self.endpoint.post(BRIDGE, envelope)
        for kind in ("vbus_irq", "vbus_update", "hcall", "irq", "memory_write", "management"):
            envelope = Envelope()
            getattr(envelope, kind).SetInParent()
            self.endpoint.post(BRIDGE, envelope)
        for body in (b"", b"\xff" * 7, b"\xff" * 9, bytes(30000)):
            for label in (ARENA_LABEL, SIGNAL_LABEL):
                self.endpoint.share(BRIDGE, label, body, [])
        await self.up()

    async def _attach_result(self, base: int, size: int, shared: int) -> int:
        envelope = Envelope()
        body = envelope.vbus_attach
        body.base, body.bytes, body.shared = base, size, shared
        reply = await self.endpoint.call(BRIDGE, envelope, CALL_S)
        self.counts[f"attach {reply.vbus_reply.result}"] += 1
        return reply.vbus_reply.result

    async def _nothing(self, call: bytes) -> None:
        envelope = Envelope()
        envelope.vbus_call.call = call
        try:
            reply = await self.endpoint.call(BRIDGE, envelope, CALL_S)
            self.counts["refused calls"] += reply.vbus_reply.result < 0
        except PvnetError:
            self.counts["refused calls"] += 1

    def _shares(self, label: str) -> None:
        """Every number of descriptors, of every kind that is none."""
        for number in range(9):
            with files(number) as fds:
                self.endpoint.share(BRIDGE, label, NUMBER.pack(77), fds)

    def _signal_shares(self, cookie: int) -> None:
        for number in range(4):
            with files(number) as fds:
                self.endpoint.share(BRIDGE, SIGNAL_LABEL, NUMBER.pack(cookie), fds)

    async def _shared_files(self) -> None:
        """Arenas that are no sealed memory files, and doorbells that are no eventfds."""
        size = 1 << 16
        for kind in ("unsealed", "half", "small", "pipe", "file", "huge", "written"):
            for bells in ("eventfd", "pipe", "memfd"):
                fds = [make_file(kind, size), *(make_bell(bells) for _ in range(2))]
                self._number += 1
                self.endpoint.share(BRIDGE, ARENA_LABEL, NUMBER.pack(self._number), fds)
                result = await self._attach_result(DEFAULT_BASE, size, self._number)
                assert result < 0, f"{kind} with {bells}"
                if kind == "unsealed":
                    os.ftruncate(fds[0], 0)
                for fd in fds:
                    os.close(fd)
        memory, fd = create_sealed(size, "good")
        bells_fds = [make_bell("eventfd"), make_bell("pipe")]
        self.endpoint.share(BRIDGE, ARENA_LABEL, NUMBER.pack(5), [fd, *bells_fds])
        assert await self._attach_result(DEFAULT_BASE, size, 6) < 0, "another number"
        assert await self._attach_result(DEFAULT_BASE, size, 5) < 0, "used up"
        self.endpoint.share(BRIDGE, ARENA_LABEL, NUMBER.pack(5), [fd, *bells_fds])
        assert await self._attach_result(DEFAULT_BASE, size, 5) < 0, "a pipe for a doorbell"
        for each in (fd, *bells_fds):
            os.close(each)
        memory.close()

    async def mirror(self) -> None:
        """Without shared memory: copies as large as can be, changes without end, in pieces as small as possible."""
        self.counts["largest"] = 0
        for size in (1 << 30, 1 << 28, 1 << 26, 1 << 24, 1 << 22):
            if not await self._attach_result(DEFAULT_BASE, size, 0):
                self.counts["largest"] = max(self.counts["largest"], size)
                for _ in range(5):
                    await self._nothing(bytes(16))
        size = 1 << 20
        assert await self._attach_result(DEFAULT_BASE, size, 0) == 0
        for number, _ in enumerate(self.until(self.seconds)):
            envelope = Envelope()
            writes = envelope.vbus_update.writes
            for at in range(2000):
                writes.add(address=DEFAULT_BASE + (at * 2 + number) % size, data=b"x"[: number % 3])
            envelope.vbus_update.more = True
            self.endpoint.post(BRIDGE, envelope)
            self.counts["runs"] += 2000
            if number % 8 == 0:
                await self._nothing(bytes(16)) if number % 64 == 0 else None
            await asyncio.sleep(0)
        await self._nothing(bytes(16))
        for address in (0, DEFAULT_BASE - 1, DEFAULT_BASE + size - 1, DEFAULT_BASE + size, (1 << 64) - 1):
            envelope = Envelope()
            envelope.vbus_update.writes.add(address=address, data=b"abc")
            envelope.vbus_update.more = address % 2 == 1
            self.endpoint.post(BRIDGE, envelope)
        with contextlib.suppress(PvnetError):
            await self._attach_result(DEFAULT_BASE, size, 0)

    async def punch(self) -> None:
        """What can be done to the file of an arena: the seals refuse most; holes in it are zeroes."""
        venet = await self.up()
        fd = self.here._fd
        for size in (0, 4096, len(self.view) - 4096, len(self.view) + 4096, 1 << 40):
            with contextlib.suppress(PermissionError):
                os.ftruncate(fd, size)
                raise AssertionError(f"truncated to {size}")
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            raise AssertionError("sealed once more")
        memory = self.here._memory
        assert isinstance(memory, mmap.mmap)
        for number, _ in enumerate(self.until(self.seconds)):
            if not venet.link or (venet._parts is not None and venet._parts.dead) or number % 50 == 49:
                venet = await self.up()
                memory = self.here._memory
                assert isinstance(memory, mmap.mmap)
            self.broadcast()
            self.ring_everything()
            first = self.random.randrange(len(memory) // 4096)
            memory.madvise(mmap.MADV_REMOVE, first * 4096, self.random.choice([4096, len(memory) - first * 4096]))
            self.counts["holes"] += 1
            await asyncio.sleep(0.001)

    async def reattach(self) -> None:
        """Attach again and again, brought up or not, and leave half an attachment each time."""
        for number, _ in enumerate(self.until(self.seconds)):
            await self.up(wait=number % 3 == 0)
            if number % 3:
                for _ in range(self.random.randrange(12)):
                    await asyncio.sleep(0)
            if number % 5 == 0:
                memory, fd = create_sealed(1 << 20, "another")
                self.endpoint.share(BRIDGE, ARENA_LABEL, NUMBER.pack(1000), [fd, fd, fd])
                os.close(fd)
                memory.close()

    async def fat(self) -> None:
        """Attach again and again with arenas that are full, so that a copy kept of any of them shows."""
        for _ in range(int(self.orders.get("rounds", 6))):
            size = 64 << 20
            memory, fd = create_sealed(size, "fat")
            memory[:] = b"\1" * size
            bells = [make_bell("eventfd"), make_bell("eventfd")]
            self._number += 1
            self.endpoint.share(BRIDGE, ARENA_LABEL, NUMBER.pack(self._number), [fd, *bells])
            assert await self._attach_result(DEFAULT_BASE, size, self._number) == 0
            for each in (fd, *bells):
                os.close(each)
            memory.close()

    async def live(self) -> None:
        """Bring the venet up and be killed on the way, or, with ``after`` seconds, in the middle of traffic."""
        await self.up()
        stop = threading.Event()
        threading.Thread(
            target=self._scribbler, args=("flips", self.small_pieces(), self.pieces(), stop), daemon=True
        ).start()
        for _ in self.until(float(self.orders.get("after", 0.0))):
            self.broadcast()
            self.ring_everything()
            await asyncio.sleep(0)
        die()


async def life(broker: str, lab: str, name: str, orders: dict[str, Any]) -> dict[str, Any]:
    endpoint = Endpoint(make_port(broker, lab, name), lab=lab, name=name, role="partition")
    await endpoint.start()
    guest = Guest(endpoint, orders)
    try:
        await endpoint.wait_peer(BRIDGE)
        assert await endpoint.settle_path(BRIDGE), "a direct path"
        attack: Callable[[], Awaitable[None]] = getattr(guest, orders["attack"])
        await attack()
    finally:
        if not orders.get("silent"):
            guest.leave()
            await endpoint.stop()
    return dict(guest.counts)


if __name__ == "__main__":
    serve(life)
