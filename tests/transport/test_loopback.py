"""The loopback network and the virtual clock: deterministic, and honest about dead-locks."""

from __future__ import annotations

import asyncio

import pytest

from pvnet.core.errors import UnreachableError
from pvnet.core.names import NodeName
from pvnet.runtime.endpoint import Endpoint
from pvnet.testing.contract import hcall, serve
from pvnet.testing.virtual_loop import DeadlockError, run_virtual
from pvnet.transport.loopback import Faults, LoopbackNetwork

BAD = Faults(drop=0.1, duplicate=0.1, reorder=0.3, delay_s=0.002)


async def two(network: LoopbackNetwork) -> tuple[Endpoint, Endpoint]:
    made = []
    for number, name in enumerate(("server", "client"), start=1):
        endpoint = Endpoint(network.port(NodeName(name)), lab="l", name=name, role="t", incarnation=number)
        await endpoint.start()
        endpoint.ready()
        made.append(endpoint)
    return made[0], made[1]


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    async def trial(seed: int) -> tuple[float, int, dict[str, int]]:
        network = LoopbackNetwork(seed=seed, faults=BAD)
        server, client = await two(network)
        serve(server)
        await asyncio.gather(*(client.call("server", hcall(n), 1000.0) for n in range(300)))
        elapsed = asyncio.get_running_loop().time()
        await client.stop()
        await server.stop()
        return elapsed, network.frames, dict(network.dice.counters)

    runs = [run_virtual(trial(seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("seed", range(5))
def test_the_network_goes_down_and_up_and_nodes_are_cut_and_mended_during_two_thousand_calls(seed: int) -> None:
    async def trial() -> None:
        network = LoopbackNetwork(seed=seed, faults=BAD)
        server, client = await two(network)
        ran: list[int] = []
        marks = {300: network.down, 700: lambda: network.cut(NodeName("client")), 1200: network.down}
        loop = asyncio.get_running_loop()

        def repair() -> None:
            network.up()
            for name in ("client", "server"):
                network.mend(NodeName(name))

        serve(server, ran)
        take = server._handlers["hcall"]

        def breaking(call):  # type: ignore[no-untyped-def]
            take(call)
            if fault := marks.pop(len(ran), None):
                loop.call_soon(fault)
                loop.call_later(0.7, repair)  # within the grace

        server.on("hcall", breaking)
        await asyncio.gather(*(client.call("server", hcall(n), 1000.0) for n in range(2000)))
        assert ran == list(range(2000))
        assert marks == {}
        await client.stop()
        await server.stop()

    run_virtual(trial())


def test_a_network_that_is_down_cannot_be_joined() -> None:
    async def trial() -> None:
        network = LoopbackNetwork()
        network.down()
        assert not network.running
        endpoint = Endpoint(network.port(NodeName("a")), lab="l", name="a", role="t")
        with pytest.raises(UnreachableError, match="down"):
            await endpoint.start()

    run_virtual(trial())


def test_an_hour_takes_no_time_and_order_of_timers_is_kept() -> None:
    async def trial() -> list[int]:
        seen: list[int] = []
        loop = asyncio.get_running_loop()
        for number in (3, 1, 2):
            loop.call_later(3600.0 * number, seen.append, number)
        await asyncio.sleep(4 * 3600.0)
        assert loop.time() == pytest.approx(4 * 3600.0)
        return seen

    assert run_virtual(trial()) == [1, 2, 3]


def test_waiting_for_what_can_never_happen_is_an_error_that_names_who_waits() -> None:
    async def trial() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.set_name("the-waiter")
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="the-waiter"):
        run_virtual(trial())
