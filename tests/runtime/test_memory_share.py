"""The offer of a partition's memory: what is refused, what is closed, whose incarnation counts."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any

import structlog
from structlog.testing import capture_logs
from unix_rig import Rig, port_of, run_unix, until

from pvnet.memory.segment import Segment
from pvnet.papr.platform_io import PartitionMapped
from pvnet.runtime.endpoint import Endpoint
from pvnet.runtime.hcall_client import HcallClient
from pvnet.runtime.memfd import create_sealed
from pvnet_services.memory_share import CONFIRMATION, OFFER, MappedMemories, PartitionMemory

SIZE = 4 * mmap.PAGESIZE


class Hypervisor:
    """An endpoint with the hypervisor's side; what it feeds is kept."""

    def __init__(self) -> None:
        self.fed: list[PartitionMapped] = []
        self.allowed: tuple[int, ...] = (SIZE,)
        self.memories: MappedMemories
        self.endpoint: Endpoint

    def __call__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.memories = MappedMemories(endpoint, self.sizes, self.fed.append)

    def sizes(self, name: str) -> tuple[int, ...]:
        return self.allowed if name == "lpar" else ()

    async def start(self, rig: Rig) -> Hypervisor:
        await rig.node("hypervisor", self)
        self.endpoint.watch("lpar")
        return self


class Partition:
    """An endpoint with the partition's side, and its hcalls."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.memory: PartitionMemory
        self.hcalls: HcallClient
        self.endpoint: Endpoint

    def __call__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.memory = PartitionMemory(endpoint, "hypervisor", self.size)
        self.hcalls = HcallClient(endpoint, "hypervisor", self.memory.segment, {})
        self.memory.offer(self.hcalls)

    async def start(self, rig: Rig, name: str = "lpar") -> Partition:
        await rig.node(name, self)
        self.endpoint.watch("hypervisor")
        return self


def test_what_one_side_writes_the_other_reads() -> None:
    async def scenario(rig: Rig) -> None:
        hypervisor, lpar = Hypervisor(), Partition()
        await hypervisor.start(rig)
        await lpar.start(rig)
        await until(lambda: lpar.hcalls.mapped)
        assert hypervisor.memories.used == ["lpar"]
        (fed,) = hypervisor.fed
        assert (fed.partition, fed.memory.size) == ("lpar", SIZE)
        lpar.memory.segment.write(5, b"north")
        assert fed.memory.read(5, 5) == b"north"
        fed.memory.write(SIZE - 5, b"south")
        assert lpar.memory.segment.read(SIZE - 5, 5) == b"south"
        lpar.memory.close()
        lpar.memory.close()

    run_unix(scenario, seconds=20)


def test_a_path_that_comes_back_is_confirmed_without_another_mapping() -> None:
    async def scenario(rig: Rig) -> None:
        hypervisor, lpar = Hypervisor(), Partition()
        await hypervisor.start(rig)
        await lpar.start(rig)
        await until(lambda: lpar.hcalls.mapped)
        confirmed: list[bytes] = []
        lpar.endpoint.on_share(CONFIRMATION, lambda _s, _l, body, _f: confirmed.append(body))
        port_of(lpar.endpoint).break_path("hypervisor")
        await until(lambda: bool(confirmed))
        assert lpar.hcalls.mapped
        assert hypervisor.memories.used == ["lpar"]
        assert len(hypervisor.fed) == 1
        lpar.memory.close()

    run_unix(scenario, seconds=20)


def test_the_confirmation_is_one_incarnations() -> None:
    async def scenario(rig: Rig) -> None:
        first, second, lpar = Hypervisor(), Hypervisor(), Partition()
        await first.start(rig)
        await lpar.start(rig)
        await until(lambda: lpar.hcalls.mapped)
        await rig.kill(first.endpoint)
        await until(lambda: not lpar.hcalls.mapped)
        await second.start(rig)
        await until(lambda: lpar.hcalls.mapped)
        assert second.memories.used == ["lpar"]
        lpar.memory.close()

    run_unix(scenario, seconds=20)


def test_another_incarnation_of_the_partition_brings_its_own_memory() -> None:
    async def scenario(rig: Rig) -> None:
        hypervisor, one, two = Hypervisor(), Partition(), Partition()
        await hypervisor.start(rig)
        await one.start(rig)
        await until(lambda: one.hcalls.mapped)
        await rig.kill(one.endpoint)
        await until(lambda: hypervisor.memories.used == [])
        one.memory.close()
        await two.start(rig)
        await until(lambda: two.hcalls.mapped)
        old, new = hypervisor.fed
        new.memory.write(0, b"new")
        assert two.memory.segment.read(0, 3) == b"new"
        assert old.memory.read(0, 3) == bytes(3)
        two.memory.close()

    run_unix(scenario, seconds=20)


def test_memory_of_the_next_life_is_taken_and_used_when_that_has_begun() -> None:
    async def scenario(rig: Rig) -> None:
        hypervisor, one, two = Hypervisor(), Partition(), Partition(2 * SIZE)
        hypervisor.allowed = (SIZE, 2 * SIZE)
        await hypervisor.start(rig)
        await one.start(rig)
        await until(lambda: one.hcalls.mapped)
        await rig.kill(one.endpoint)
        await until(lambda: hypervisor.memories.used == [])
        one.memory.close()
        await two.start(rig)
        await until(lambda: hypervisor.endpoint.counters["memory_of_another_life"] > 0)
        assert not two.hcalls.mapped, "what is in force is still the old size"
        two.memory.close()

    run_unix(scenario, seconds=20)


def test_offers_that_are_refused() -> None:
    async def scenario(rig: Rig) -> None:
        hypervisor = Hypervisor()
        await hypervisor.start(rig)
        endpoints = {name: await rig.node(name) for name in ("lpar", "stranger")}
        refused = 0
        _, small = create_sealed(SIZE // 2, "small")
        _, right = create_sealed(SIZE, "right")
        unsealed = os.memfd_create("unsealed")
        os.ftruncate(unsealed, SIZE)
        number = struct.pack(">Q", endpoints["lpar"].incarnation)
        offers: list[tuple[str, bytes, list[int]]] = [
            ("lpar", number, []),
            ("lpar", number, [right, right]),
            ("lpar", number + b"\0", [right]),
            ("lpar", b"", [right]),
            ("lpar", number, [small]),
            ("lpar", number, [unsealed]),
            ("lpar", number, [0]),
            ("stranger", number, [right]),
        ]
        with capture_logs() as logs:
            hypervisor.endpoint.log = structlog.get_logger()
            for name, body, fds in offers:
                assert await endpoints[name].settle_path("hypervisor")
                assert endpoints[name].share("hypervisor", OFFER, body, fds)
                refused += 1
                await until(lambda: hypervisor.endpoint.counters["memory_offer_refused"] >= refused)  # noqa: B023
        assert len([entry for entry in logs if entry["event"] == "memory_offer_refused"]) == len(offers)
        assert hypervisor.fed == []
        assert hypervisor.memories.used == []
        for fd in (small, right, unsealed):
            os.close(fd)

    run_unix(scenario, seconds=20)


def test_a_memory_of_an_earlier_life_is_never_used() -> None:
    async def scenario(rig: Rig) -> None:
        hypervisor = Hypervisor()
        await hypervisor.start(rig)
        lpar = await rig.node("lpar")
        assert await lpar.settle_path("hypervisor")
        _, fd = create_sealed(SIZE, "old")
        done: list[Any] = []
        hypervisor.endpoint.on_share("after", lambda *share: done.append(share))
        assert lpar.share("hypervisor", OFFER, struct.pack(">Q", lpar.incarnation + 77), [fd])
        assert lpar.share("hypervisor", "after", b"", [])
        await until(lambda: bool(done))
        assert hypervisor.fed == []
        os.close(fd)

    run_unix(scenario, seconds=20)


def test_confirmations_that_are_not_believed() -> None:
    async def scenario(rig: Rig) -> None:
        hypervisor, lpar = await rig.node("hypervisor"), Partition()
        stranger = await rig.node("stranger")
        await lpar.start(rig)
        assert await lpar.endpoint.settle_path("hypervisor")
        assert await stranger.settle_path("lpar")
        ours, theirs = lpar.endpoint.incarnation, hypervisor.incarnation
        for endpoint, body, fds in (
            (hypervisor, b"", []),
            (hypervisor, struct.pack(">QQ", ours, theirs), [0]),
            (stranger, struct.pack(">QQ", ours, theirs), []),
        ):
            assert endpoint.share("lpar", CONFIRMATION, body, fds)
        await until(lambda: lpar.endpoint.counters["memory_confirmation_refused"] == 3)
        lpar.endpoint.on_share("after", lambda *share: done.append(share))
        done: list[Any] = []
        for body in (struct.pack(">QQ", ours - 1, theirs), struct.pack(">QQ", ours, theirs + 1)):
            assert hypervisor.share("lpar", CONFIRMATION, body, [])
        assert hypervisor.share("lpar", "after", b"", [])
        await until(lambda: bool(done))
        assert not lpar.hcalls.mapped
        assert hypervisor.share("lpar", CONFIRMATION, struct.pack(">QQ", ours, theirs), [])
        await until(lambda: lpar.hcalls.mapped)
        lpar.memory.close()

    run_unix(scenario, seconds=20)


def test_memory_that_nobody_closes_closes_itself() -> None:
    async def scenario(rig: Rig) -> None:
        endpoint = await rig.node("lpar")
        memory = PartitionMemory(endpoint, "hypervisor", SIZE)
        assert isinstance(memory.segment, Segment)
        del memory

    run_unix(scenario, seconds=20)
