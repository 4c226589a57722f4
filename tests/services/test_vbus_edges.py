"""Attaching to the vbus host where it goes wrong: refused, lost, late, interrupted, repeated."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from behaviour_worlds import MQTT, LoopbackWorld, behaviour, eventually
from unix_rig import open_fds

from pvnet.core.errors import RefusedError
from pvnet.core.machine import Note, Tick
from pvnet.papr.errno import EINVAL, EPERM
from pvnet.pb.v1.envelope_pb2 import Envelope
from pvnet.pb.v1.management_pb2 import Management, ManagementReply, NetPing
from pvnet.runtime.endpoint import Endpoint
from pvnet.testing.in_process import InProcessLab
from pvnet.testing.virtual_loop import run_virtual
from pvnet.transport.loopback import LoopbackNetwork
from pvnet.transport.unix_socket import close_all
from pvnet.vbus.arena import DEFAULT_BASE
from pvnet_services.note_limit import BURST, NoteLimit
from pvnet_services.vbus_guest import VbusGuest
from pvnet_services.vbus_host import ARENA_LABEL

NET: dict[str, Any] = {
    "partition": [
        {"name": "a", "venet": [{"address": "10.77.0.1/24", "ring": 32}]},
        {"name": "b", "venet": [{"address": "10.77.0.2/24", "ring": 32}]},
        {"name": "c"},
        {"name": "d", "autostart": False, "venet": [{"ring": 32}]},
    ],
    "switch": [{"name": "net0"}],
    "manager": None,
}
LOOPBACK = [pytest.param(LoopbackWorld(), id="loopback")]
UNIX = [pytest.param(MQTT["unix"], id="unix", marks=pytest.mark.needs("mosquitto"))]


def guest(lab: InProcessLab, name: str = "a") -> VbusGuest:
    net = lab.partition(name).net
    assert net is not None
    return net.guest


async def is_up(lab: InProcessLab) -> bool:
    nets = [(await lab.status(name))["net"]["interfaces"] for name in ("a", "b")]
    return all(interface["link"] for interfaces in nets for interface in interfaces)


async def reaches(lab: InProcessLab) -> None:
    """Wait until a and b are up; a reaches b."""
    await eventually(lambda: is_up(lab))
    command = NetPing(address="10.77.0.2", count=5, payload_bytes=100, interval_ms=5, timeout_ms=20_000)
    reply = (await (await lab.client()).call("a", Envelope(management=Management(ping=command)), 60.0)).management_reply
    assert reply.status == ManagementReply.OK, reply.text
    assert '"received": 5' in reply.status_json
    await lab.leave()


async def attach_again(lab: InProcessLab) -> None:
    """Have guest a attach anew."""
    before = guest(lab).attachment
    guest(lab)._attach_soon()

    async def another() -> bool:
        now = guest(lab).attachment
        return now is not None and now is not before and now.accepted

    await eventually(another)


def attach(size: int, base: int = DEFAULT_BASE, shared: int = 0) -> Envelope:
    envelope = Envelope()
    envelope.vbus_attach.base, envelope.vbus_attach.bytes, envelope.vbus_attach.shared = base, size, shared
    return envelope


async def result_of(endpoint: Endpoint, envelope: Envelope) -> int:
    return (await endpoint.call("bridge", envelope, 60.0)).vbus_reply.result


@behaviour(worlds=LOOPBACK + UNIX, **NET)
async def test_a_partition_that_attaches_while_it_is_attached_starts_from_scratch(lab: InProcessLab) -> None:
    for _ in range(3):
        await attach_again(lab)
    assert sorted(lab.bridge.host.clients) == ["a", "b"]
    await reaches(lab)


@behaviour(worlds=LOOPBACK + UNIX, **NET)
async def test_a_host_that_dies_during_the_attach_is_replaced_by_the_next(lab: InProcessLab) -> None:
    asked = asyncio.Event()
    lab.bridge.endpoint.on("vbus_attach", lambda _: asked.set())
    guest(lab)._attach_soon()
    await asked.wait()
    await lab.crash("bridge")
    await lab.start("bridge")
    await reaches(lab)


@behaviour(worlds=UNIX, **NET)
async def test_an_arena_that_does_not_arrive_is_replaced_by_copies(lab: InProcessLab) -> None:
    bridge = lab.bridge
    honest = bridge.endpoint._share_handlers[ARENA_LABEL]
    bridge.endpoint.on_share(ARENA_LABEL, lambda _source, _label, _body, fds: close_all(fds))
    guest(lab)._attach_soon()

    async def copies() -> bool:
        attachment = guest(lab).attachment
        return attachment is not None and attachment.accepted and not attachment.is_shared

    await eventually(copies)
    assert not bridge.host.clients["a"].is_shared
    await reaches(lab)
    bridge.endpoint.on_share(ARENA_LABEL, honest)
    guest(lab)._attach_soon()

    async def shared() -> bool:
        attachment = guest(lab).attachment
        return attachment is not None and attachment.accepted and attachment.is_shared

    await eventually(shared)
    await reaches(lab)


@behaviour(worlds=LOOPBACK, settles=False, **NET)
async def test_who_becomes_a_member_later_is_invited(lab: InProcessLab) -> None:
    assert guest(lab, "c").attachment is None
    lab.bridge.host.registry.bus_create("c")
    lab.bridge.host.registry.join("c", "c")
    lab.bridge.host.invite("c")

    async def attached() -> bool:
        attachment = guest(lab, "c").attachment
        return attachment is not None and attachment.accepted

    await eventually(attached)


@behaviour(worlds=LOOPBACK, settles=False, **NET)
async def test_an_invitation_right_behind_a_refusal_is_heard(lab: InProcessLab) -> None:
    """The two arrive together, when the attempt that was refused does not know it yet."""
    host = lab.bridge.host
    honest = host._attach

    def refuse_and_invite(envelope: Envelope) -> None:
        honest(envelope)
        if "c" not in host.clients:
            lab.bridge.host.registry.bus_create("c")
            lab.bridge.host.registry.join("c", "c")
            host.invite("c")

    lab.bridge.endpoint.on("vbus_attach", refuse_and_invite)
    guest(lab, "c")._attach_soon()

    async def attached() -> bool:
        attachment = guest(lab, "c").attachment
        return attachment is not None and attachment.accepted

    await eventually(attached)


@behaviour(worlds=LOOPBACK, **NET)
async def test_any_number_of_invitations_makes_one_attempt_at_a_time(lab: InProcessLab) -> None:
    attempts: list[Envelope] = []
    lab.bridge.endpoint.on("vbus_attach", attempts.append)
    for _ in range(1000):
        lab.bridge.host.invite("c")
    tasks = lab.partition("c").endpoint.tasks

    async def asked() -> bool:
        return bool(attempts)

    await eventually(asked)
    await asyncio.sleep(1.0)
    assert len(attempts) == 1
    assert lab.partition("c").endpoint.tasks <= tasks + 1
    lab.bridge.endpoint.on("vbus_attach", lab.bridge.host._attach)
    refusal = Envelope()
    refusal.vbus_reply.result = -EPERM
    lab.bridge.endpoint.reply(attempts[0], refusal)


@behaviour(worlds=LOOPBACK, **NET)
async def test_answers_of_another_kind_are_no_success(lab: InProcessLab) -> None:
    def answer(envelope: Envelope) -> None:
        reply = Envelope()
        reply.hcall_reply.rc = 0
        lab.bridge.endpoint.reply(envelope, reply)

    honest = lab.bridge.host._attach
    lab.bridge.endpoint.on("vbus_attach", answer)
    guest(lab)._attach_soon()

    async def refused() -> bool:
        return guest(lab).attachment is None

    await eventually(refused)
    assert lab.partition("a").endpoint.counters["vbus_attach_refused"] == 1
    lab.bridge.endpoint.on("vbus_attach", honest)
    guest(lab)._attach_soon()
    await reaches(lab)


@behaviour(worlds=LOOPBACK, settles=False, **NET)
async def test_a_partition_leaves_though_its_calls_are_never_answered(lab: InProcessLab) -> None:
    lab.bridge.endpoint.on("vbus_call", lambda _: None)
    await guest(lab).stop(1.0)
    assert guest(lab).attachment is None
    guest(lab)._attach_soon()
    await asyncio.sleep(1.0)
    assert guest(lab).attachment is None, "it has left"


@behaviour(worlds=LOOPBACK, **NET)
async def test_arenas_of_which_no_copy_can_be_kept_are_refused(lab: InProcessLab) -> None:
    peer = await lab._endpoint("d", "partition")
    largest = 1 << 25
    for size in (0, 4095, largest + 4096, 1 << 30, 1 << 63):
        assert await result_of(peer, attach(size)) == -EINVAL, size
    for base in (0, 4095, 1 << 62, (1 << 64) - 4096):
        assert await result_of(peer, attach(4096, base)) == -EINVAL, base
    assert await result_of(peer, attach(largest)) == 0
    assert await result_of(peer, attach(4096)) == 0, "in its place"
    assert await result_of(peer, attach(0)) == -EINVAL, "and that one ends, too"
    assert sorted(lab.bridge.host.clients) == ["a", "b"]
    with pytest.raises(RefusedError, match="has not attached"):
        await peer.call("bridge", Envelope(vbus_call={"call": bytes(16)}), 60.0)
    await peer.stop()
    lab._ports.pop("d")


@behaviour(worlds=LOOPBACK, **NET)
async def test_what_lies_outside_of_an_arena_is_refused_and_logged_with_measure(lab: InProcessLab) -> None:
    peer = await lab._endpoint("d", "partition")
    assert await result_of(peer, attach(4096)) == 0
    for at in (DEFAULT_BASE - 1, DEFAULT_BASE + 4096, 0, (1 << 64) - 1) * 50:
        envelope = Envelope()
        envelope.vbus_update.writes.add(address=at, data=b"ab")
        peer.post("bridge", envelope)
    with pytest.raises(RefusedError, match="EFAULT"):
        await peer.call(
            "bridge", Envelope(vbus_call={"call": bytes(16), "writes": [{"address": 1, "data": b"x"}]}), 60.0
        )
    counters = lab.bridge.endpoint.counters
    assert counters["vbus_bad_message"] == 201
    assert counters["notes_not_logged"] >= 201 - BURST - 10
    await peer.stop()
    lab._ports.pop("d")


@behaviour(worlds=UNIX, **NET)
async def test_shares_for_signals_that_are_not_open_keep_no_descriptor(lab: InProcessLab) -> None:
    client = lab.bridge.host.clients["a"]
    known = next(iter(client._opened))
    before = open_fds()
    for cookie in (0, 12345, (1 << 64) - 1, known):
        client.bind(cookie, [os.eventfd(0), os.eventfd(0)])
    assert open_fds() == before
    await reaches(lab)


@behaviour(worlds=UNIX, **NET)
async def test_the_memory_of_who_is_gone_is_let_go_at_once(lab: InProcessLab) -> None:
    """Without a collection of garbage: it could be long in coming, and each arena costs a descriptor and its pages."""

    def arenas() -> int:
        with open("/proc/self/maps") as maps:  # noqa: PTH123 - not a file of ours
            return sum("-vbus" in line for line in maps)

    import gc

    await reaches(lab)
    gc.collect()
    gc.disable()
    try:
        before = arenas()
        for _ in range(3):
            await lab.crash("bridge")
            await lab.start("bridge")
            await reaches(lab)
            await lab.crash("b")
            await lab.start("b")
            await reaches(lab)

        async def let_go() -> bool:
            return arenas() <= before

        await eventually(let_go, 5.0)
    finally:
        gc.enable()


@behaviour(worlds=UNIX, **NET)
async def test_a_cookie_that_is_used_twice_costs_only_who_uses_it(lab: InProcessLab) -> None:
    """Closing the second of the two signals closes eventfds; the first must not be rung by them any more."""
    client = lab.bridge.host.clients["a"]
    signals = client.machine.signals
    first = next(signal for signal in signals._by_handle.values() if signal.direct)
    twin = signals.create(first.shm, first.owner, first.cookie, 0)
    signals.announce(twin)
    client.feed(Tick())
    assert first.cookie not in client._signals, "its eventfds are closed"
    signals.notify(first)  # as when somebody else's frame is delivered
    client.feed(Tick())
    signals.unmap(twin)
    signals.release(twin)
    client.feed(Tick())
    signals.notify(first)
    client.feed(Tick())
    await attach_again(lab)
    await reaches(lab)


def test_of_many_notes_of_a_kind_a_few_are_logged_and_all_are_counted() -> None:
    now = 0.0

    async def main() -> None:
        nonlocal now
        endpoint = Endpoint(LoopbackNetwork().port("bridge"), lab="lab", name="bridge", role="bridge")  # type: ignore[arg-type]
        logged: list[Note] = []
        endpoint.note = lambda note, **_: logged.append(note)  # type: ignore[method-assign]
        limit = NoteLimit(endpoint, lambda: now)
        for _ in range(100):
            limit.note(Note("one", (), "warning"))
        limit.note(Note("other", (), "warning"))
        assert [note.event for note in logged] == ["one"] * BURST + ["other"]
        assert endpoint.counters["one"] == 100 - BURST
        now += 1.5
        for _ in range(10):
            limit.note(Note("one", (), "warning"))
        assert len(logged) == BURST + 2

    run_virtual(main())
